// The engine room: what the stream, the worker and the models do, from one feed of server-sent events.

import { json } from "./api.js";
import { Buttons } from "./controls.js";
import { $, asCount, asName, el, text } from "./dom.js";
import { histogram } from "./histogram.js";

const ROWS = 9;
const VERBS = { view: "looks at", add_to_cart: "adds", remove_from_cart: "removes", purchase: "buys" };
const FEATURES = {
  orders: "orders",
  lines_per_order: "lines an order",
  order_gap_days: "days between orders",
  items: "products known",
  cart_items: "products in the cart",
  viewed_24h: "views, a day",
  carted_1h: "additions, an hour",
  purchased_1h: "purchases, an hour",
  purchased_24h: "purchases, a day",
  purchased_7d: "purchases, a week",
  purchased_30d: "purchases, 30 days",
  carted_decayed_1d: "additions, half-life a day",
  purchased_decayed_30d: "purchases, half-life 30 days",
};

/** Show the engine room, if the feed is there. Returns null where it is not: the page is a shop alone. */
export async function attach(address, nameOf, onModel) {
  const there = await json(address).catch(() => null);
  if (!there) return null;
  const buttons = await Buttons.open(there.controls ? `${address}/controls` : null);
  return new EngineRoom(address, nameOf, onModel, buttons);
}

class EngineRoom {
  /** `nameOf` is the name of a product; `onModel` is called when another model becomes the champion. */
  constructor(address, nameOf, onModel, buttons) {
    this.address = address;
    this.nameOf = nameOf;
    this.onModel = onModel;
    this.champion = null;
    this.buttons = buttons;
    this.user = null;
    this.source = null;
    this.features = new Map();
    this.#build();
    document.body.classList.add("has-engine");
    $("engine").hidden = $("dock-engine").hidden = false;
  }

  /** Follow this shopper. The browser connects again by itself when the feed ends. */
  follow(user) {
    this.user = user;
    this.features.clear();
    this.featureList.replaceChildren();
    text(this.featureState, "no events yet");
    this.source?.close();
    this.source = new EventSource(`${this.address}/feed?${new URLSearchParams({ user })}`);
    this.source.addEventListener("open", () => this.#connected(true));
    this.source.addEventListener("error", () => this.#connected(false));
    this.source.addEventListener("events", ({ data }) => this.#events(JSON.parse(data)));
    this.source.addEventListener("shopper", ({ data }) => this.#shopper(JSON.parse(data)));
    this.source.addEventListener("figures", ({ data }) => this.#figures(JSON.parse(data)));
  }

  #build() {
    this.state = el("span.state", { data: { state: "off" } }, "connecting");
    this.tiles = Object.fromEntries(
      [["rate", "events/s"], ["age", "iterator age"], ["p50", "p50"], ["p95", "p95"], ["p99", "p99"], ["sent", "events sent"]]
        .map(([key, label]) => [key, { value: el("dd", {}, "–"), label: el("dt", {}, label) }]),
    );
    const tile = (key) => el("div.tile", { data: { figure: key } }, this.tiles[key].label, this.tiles[key].value);
    this.chart = el("div.chart");
    this.chartNote = el("p.note");
    this.rows = el("tbody");
    this.featureList = el("dl.features");
    this.featureState = el("p.note");
    this.worker = el("p.note");
    this.arms = el("ul.arms");
    $("engine").append(
      el("div.engine-head", {}, el("h2", { id: "engine-title" }, "Engine room"), this.state),
      el("dl.tiles", {}, tile("rate"), tile("age"), tile("sent")),
      part("Event to list", "Time from an event's put until the list that knows it is published, the last minute",
        el("dl.tiles", {}, tile("p50"), tile("p95"), tile("p99")), this.chart, this.chartNote),
      part("This shopper's features", null, this.featureState, this.featureList),
      part("The stream", null,
        el("div.table", { tabindex: "0", role: "region", "aria-label": "Events on the stream" },
          el("table", {},
            el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Shopper"), el("th", { scope: "col" }, "Event"), el("th", { scope: "col" }, "Shard"), el("th", { scope: "col" }, "Sequence number"))),
            this.rows))),
      part("Models", null, this.arms, ...this.buttons.models),
      part("The worker", null, this.worker, ...this.buttons.drill),
    );
  }

  #connected(is) {
    if (is) this.rows.replaceChildren(); // a feed begins with the last events, whoever follows it
    this.state.dataset.state = is ? "on" : "off";
    text(this.state, is ? "live" : "connecting again");
  }

  #events(seen) {
    const rows = seen.reverse().map((event) => {
      const own = event.userId === this.user;
      const name = asName(this.nameOf(event.itemId), event.itemId);
      const shard = Number(event.shardId.split("-").at(-1));
      const place = event.subSequenceNumber ? `/${event.subSequenceNumber}` : "";
      return el(own ? "tr.own" : "tr", { data: { type: event.eventType } },
        el("td", { title: event.userId }, own ? "you" : event.userId),
        el("td", { title: name }, `${VERBS[event.eventType] ?? event.eventType} ${name}`),
        el("td", {}, el("span.shard", { data: { shard: shard % 8 } }, String(shard))),
        el("td", { title: `${event.shardId} ${event.sequenceNumber}${place}` }, `${event.sequenceNumber.length > 12 ? "…" : ""}${event.sequenceNumber.slice(-12)}${place}`),
      );
    });
    // What the visitor did stays in sight for longer than what the others do.
    const before = [...this.rows.children];
    const own = before.filter((row) => row.classList.contains("own")).slice(0, 3);
    const kept = [...rows, ...before].filter((row) => !row.classList.contains("own") || rows.includes(row) || own.includes(row));
    while (kept.length > ROWS) {
      const last = kept.findLastIndex((row) => !row.classList.contains("own"));
      kept.splice(last < 0 ? kept.length - 1 : last, 1);
    }
    this.rows.replaceChildren(...kept);
  }

  #shopper({ userId, eventsFolded, shard, features }) {
    if (userId !== this.user) return;
    text(this.featureState, `${asCount(eventsFolded)} events folded, on shard ${shard}`);
    for (const { name, description, value } of features) {
      let row = this.features.get(name);
      if (!row) {
        row = { value: el("dd"), label: el("dt", { title: description }, FEATURES[name] ?? name) };
        row.pair = el("div", { data: { feature: name } }, row.label, row.value);
        this.featureList.append(row.pair);
        this.features.set(name, row);
      }
      const shown = value === null ? "–" : String(Math.round(value * 100) / 100);
      if (row.value.textContent !== shown) {
        if (row.value.textContent) {
          row.pair.classList.remove("changed");
          void row.pair.offsetWidth; // restarts the animation
          row.pair.classList.add("changed");
        }
        row.value.textContent = shown;
      }
    }
  }

  #figures({ figures, worker, models, drill }) {
    const { latency } = figures;
    this.#tile("rate", figures.eventsPerSecond.toFixed(1));
    this.#tile("age", worker.iteratorAgeMs === null ? "–" : asMillis(worker.iteratorAgeMs));
    this.#tile("sent", asCount(figures.sent));
    for (const name of ["p50", "p95", "p99"]) this.#tile(name, latency[name] === null ? "–" : asMillis(latency[name]));
    histogram(this.chart, latency);
    text(this.chartNote, `${asCount(latency.events)} events in the last minute`);
    text(this.worker, worker.pid === null
      ? `No process. ${asCount(figures.waiting)} shoppers wait.`
      : `Process ${worker.pid}: ${worker.leases ?? 0} shards, ${asCount(worker.eventsFolded ?? 0)} events folded, ${asCount(worker.deadLetters ?? 0)} put aside.`);
    this.#arms(figures.arms);
    this.buttons.show(models, drill);
    if (this.champion && models?.champion !== this.champion) this.onModel();
    this.champion = models?.champion ?? null;
  }

  #tile(key, value) {
    text(this.tiles[key].value, value);
  }

  #arms(arms) {
    const all = arms.reduce((sum, { lists }) => sum + lists, 0);
    this.arms.replaceChildren(...arms.map(({ arm, modelVersion, lists }) => {
      const share = el("span.share");
      share.style.inlineSize = `${(100 * lists) / all}%`;
      return el("li", { data: { arm, version: modelVersion } },
        el("span.arm", {}, arm), el("code", { title: modelVersion }, modelVersion.slice(0, 8)),
        el("span.track", { "aria-hidden": "true" }, share), el("span.lists", {}, `${Math.round((100 * lists) / all)} %`));
    }));
  }
}

function part(title, note, ...content) {
  return el("section.part", {}, el("h3", note ? { title: note } : {}, title), ...content);
}

function asMillis(value) {
  return value >= 1000 ? `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} s` : `${Math.round(value)} ms`;
}
