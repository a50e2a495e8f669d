// The list: ten places that slide to their new order, each with how it moved and why it is there.

import { $, art, el, reorder, svg, text } from "./dom.js";
import { why } from "./why.js";

const LACKS = {
  no_model: "what is popular: this model has no ranking yet",
  no_candidates: "what is popular: nothing is known of this shopper yet",
  few_candidates: "filled up with what is popular",
  no_neighbours: "own and popular products: nothing goes with them",
  stale_model: "the model is older than a month",
  stored_state: "as of the last checkpoint",
  state_unavailable: "what is popular: the stores of states are away",
};

export class List {
  constructor(onAdd) {
    this.onAdd = onAdd;
    /** By product id, the place as it is shown. */
    this.places = new Map();
    this.fresh = true;
    $("all-places").addEventListener("click", ({ target }) => {
      target.setAttribute("aria-expanded", String($("for-you").classList.toggle("all")));
      text(target, $("for-you").classList.contains("all") ? "Show five" : "Show all ten");
    });
  }

  /** Another shopper: nothing in the next list has moved. */
  forget() {
    this.fresh = true;
  }

  wait() {
    $("places").setAttribute("aria-busy", "true");
    text($("list-state"), "updating …");
  }

  settle() {
    $("places").removeAttribute("aria-busy");
    text($("list-state"), "");
  }

  /** Show an answer of the API; returns the name of the first product. */
  show(answer, basket, cart, product, seconds) {
    const before = this.fresh ? null : new Map([...this.places].map(([id, { rank }]) => [id, rank]));
    const places = new Map();
    for (const item of answer.items) {
      const known = product(item.id, item.name);
      const place = this.places.get(item.id) ?? this.#place(known);
      place.rank = item.rank;
      text(place.number, String(item.rank));
      this.#moved(place.move, before, item);
      place.chip.dataset.source = item.source;
      const words = why(item, basket, cart.has(item.id));
      text(place.chip, words);
      place.chip.title = words;
      places.set(item.id, place);
    }
    this.places = places;
    this.mark(cart);
    reorder($("places"), [...places.values()].map(({ row }) => row));
    this.settle();
    this.fresh = false;
    const state = $("list-state");
    if (seconds !== null) {
      text(state, `updated in ${seconds.toFixed(2)} s`);
      state.dataset.seconds = seconds.toFixed(3);
      state.classList.remove("fresh");
      void state.offsetWidth; // restarts the animation
      state.classList.add("fresh");
    }
    const lacks = answer.fallback ? LACKS[answer.fallback] ?? answer.fallback : null;
    $("list-foot").replaceChildren(
      el("span", { title: answer.modelVersion }, `Model ${answer.modelVersion.slice(0, 8)}, ${answer.arm}`),
      ...(lacks ? [el("span", {}, lacks)] : []),
    );
    Object.assign($("places").dataset, { model: answer.modelVersion, user: answer.userId });
    return answer.items.length ? product(answer.items[0].id, answer.items[0].name).name : "nothing";
  }

  mark(cart) {
    for (const [id, { row }] of this.places) row.classList.toggle("in-cart", cart.has(id));
  }

  #place(product) {
    const number = el("span", {});
    const move = el("span.move", { hidden: true });
    const chip = el("span.why");
    const row = el("li.place", { data: { item: product.id } },
      el("span.rank", {}, number, move),
      el("div.art", {}, art(product)),
      el("div", {},
        el("p.place-name", { title: product.name }, product.name),
        el("p.why-line", {}, chip)),
      el("button.add", { type: "button", "aria-label": `Add ${product.name} to the cart`, onclick: () => this.onAdd(product) },
        svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: "M8 3v10M3 8h10", stroke: "currentColor", "stroke-width": 1.8, "stroke-linecap": "round" }))),
    );
    return { row, number, move, chip, rank: 0 };
  }

  #moved(mark, before, item) {
    const was = before?.get(item.id);
    const by = was === undefined ? 0 : was - item.rank;
    const kind = !before ? "" : was === undefined ? "new" : by > 0 ? "up" : by < 0 ? "down" : "";
    mark.hidden = !kind;
    mark.dataset.move = kind;
    mark.replaceChildren(...{
      "": () => [],
      new: () => ["new"],
      up: () => [el("span", { "aria-hidden": "true" }, "▲"), el("span.unseen", {}, "up "), String(by)],
      down: () => [el("span", { "aria-hidden": "true" }, "▼"), el("span.unseen", {}, "down "), String(-by)],
    }[kind]());
  }
}
