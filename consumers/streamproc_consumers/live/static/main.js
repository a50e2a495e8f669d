// The page: who shops, what an action does, and when the list is asked for again.

import { Api, configuration, json, unique } from "./api.js";
import { Cart } from "./cart.js";
import { $, asName, el, plural, priceIn, text } from "./dom.js";
import { List } from "./list.js";
import { Shelf } from "./shelf.js";

const PLACES = 10;
/** How long the list is asked for until it knows an action, and how often. */
const KNOWS_MS = 6000;
const ASK_MS = 120;
const NEW = "new";
/** The API looks at the models every second. */
const MODEL_MS = 700;
const MODEL_TRIES = 12;

class Page {
  constructor(config, catalogue) {
    this.api = new Api(config);
    if (catalogue.currency) priceIn(catalogue.currency);
    this.products = new Map(catalogue.products.map((product) => [product.id, { ...product, name: asName(product.name, product.id) }]));
    this.shoppers = catalogue.shoppers ?? [];
    this.session = unique();
    this.user = null;
    this.engine = null;
    /** Counts the actions; a list that was asked for before the last one is not shown. */
    this.acted = 0;
    /** One request at a time carries a shopper's actions, so that they reach the stream in their order. */
    this.sending = Promise.resolve();
    this.shelf = new Shelf([...this.products.values()], (product) => this.add(product));
    this.list = new List((product) => this.add(product));
    this.cart = new Cart((product) => this.remove(product), () => this.buy());
  }

  start(guest) {
    const picker = $("shopper");
    picker.append(
      ...this.shoppers.map((shopper) => el("option", { value: shopper.id }, `${shopper.id} · ${shopper.note}`)),
      el("option", { value: NEW }, "New shopper · no history"),
    );
    picker.addEventListener("change", () => this.become(picker.value === NEW ? guest() : picker.value));
    if (!this.shoppers.length) picker.value = NEW;
    this.become(picker.value === NEW ? guest() : picker.value);
  }

  become(user) {
    this.user = user;
    this.acted += 1;
    this.cart.clear();
    this.list.forget();
    this.engine?.follow(user);
    this.show(this.acted, null);
  }

  product(id, name = "") {
    return this.products.get(id) ?? { id, name: asName(name, id), price: 0, group: "" };
  }

  add(product) {
    this.cart.add(product);
    this.act([this.event("add_to_cart", product, { quantity: 1 })], `${product.name} is in the cart.`);
  }

  remove(product) {
    const quantity = this.cart.remove(product);
    if (quantity) this.act([this.event("remove_from_cart", product, { quantity })], `${product.name} is out of the cart.`);
  }

  buy() {
    const lines = this.cart.buy();
    const order = `order-${unique()}`;
    const events = lines.map(({ product, quantity }) => this.event("purchase", product, { quantity, order_id: order }));
    if (events.length) this.act(events, `You bought ${plural(events.length, "product")}.`);
  }

  event(type, product, more) {
    const event = { event_type: type, user_id: this.user, item_id: product.id, session_id: this.session, ...more };
    if (product.price > 0) event.price = product.price;
    // The page names the time, so that it can tell from `featuresAsOf` whether a list knows the event.
    event.ts = new Date().toISOString();
    return event;
  }

  act(events, said) {
    const number = ++this.acted;
    const since = performance.now();
    void this.basket(); // asked while the event is on its way
    this.list.wait();
    this.list.mark(this.cart);
    this.shelf.mark(this.cart);
    this.sending = this.sending
      .then(() => this.api.send(events))
      .then((reply) => {
        const refused = reply.results?.find((result) => !result.ok);
        if (refused) throw new Error(refused.error);
        notice("");
        return this.show(number, { at: Date.parse(events.at(-1).ts), since, said });
      })
      .catch((error) => {
        this.list.settle();
        notice(`That did not reach the shop: ${error.message}`);
      });
  }

  /** Ask for the list until it knows `act` (at once where there is none), and show it unless something newer happened. */
  async show(number, act) {
    const until = performance.now() + KNOWS_MS;
    try {
      for (;;) {
        const list = await this.api.personalized(this.user, PLACES);
        if (number !== this.acted) return;
        const knows = !act || Date.parse(list.featuresAsOf) >= act.at;
        if (knows || performance.now() > until) {
          const basket = await this.basket();
          if (number !== this.acted) return;
          const seconds = act && knows ? (performance.now() - act.since) / 1000 : null;
          const first = this.list.show(list, basket, this.cart, (id, name) => this.product(id, name), seconds);
          notice(act && !knows ? "The shop has your action, and is slow to answer it: the list is the one before." : "");
          if (act) text($("said"), `${act.said} First pick: ${first}.`);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, ASK_MS));
      }
    } catch (error) {
      if (number !== this.acted) return;
      this.list.settle();
      notice(error.message);
    }
  }

  /** Another model serves, whoever shops meanwhile: ask until the list is its own. Other arms keep their lists. */
  async another() {
    for (let left = MODEL_TRIES; left; left--) {
      await new Promise((resolve) => setTimeout(resolve, MODEL_MS));
      const number = this.acted;
      const list = await this.api.personalized(this.user, PLACES).catch(() => null);
      if (list && number === this.acted && list.modelVersion !== $("places").dataset.model) {
        return void this.show(number, null);
      }
    }
  }

  /** What was added last, with what goes with it: what the words of a place may name. */
  basket() {
    return Promise.all(
      this.cart.recent().map(async (product) => ({ ...product, related: await this.api.related(product.id) })),
    );
  }
}

function notice(sentence) {
  text($("notice"), sentence);
  $("notice").hidden = !sentence;
}

/** A shopper that nobody knows yet. */
function newShopper() {
  return `guest-${unique().slice(0, 8)}`;
}

try {
  const config = await configuration();
  const page = new Page(config, await json(config.catalogue));
  if (config.live) {
    const { attach } = await import("./engine.js");
    page.engine = await attach(config.live, (id) => page.product(id).name, () => page.another());
  }
  page.start(newShopper);
} catch (error) {
  notice(error.message);
}
