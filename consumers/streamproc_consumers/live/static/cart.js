// The cart, as the visitor sees it. The stream's own view of it is in the shopper's features.

import { $, asMoney, el, plural, text } from "./dom.js";

/** So many products are asked what goes with them. */
const RECENT = 4;

export class Cart {
  constructor(onRemove, onBuy) {
    this.onRemove = onRemove;
    /** By id, the last added one last. */
    this.lines = new Map();
    this.bought = [];
    $("buy").addEventListener("click", onBuy);
  }

  has(id) {
    return this.lines.has(id);
  }

  quantity(id) {
    return this.lines.get(id)?.quantity ?? 0;
  }

  /** The products that were added last, the last one first; after a purchase those that were bought. */
  recent() {
    const products = [...this.lines.values()].map(({ product }) => product);
    return [...this.bought, ...products].reverse().slice(0, RECENT);
  }

  add(product) {
    const quantity = this.quantity(product.id) + 1;
    this.lines.delete(product.id);
    this.lines.set(product.id, { product, quantity });
    this.#draw();
  }

  remove(product) {
    const quantity = this.quantity(product.id);
    this.lines.delete(product.id);
    this.#draw();
    return quantity;
  }

  buy() {
    const lines = [...this.lines.values()];
    this.bought = lines.map(({ product }) => product);
    this.lines.clear();
    this.#draw();
    return lines;
  }

  clear() {
    this.lines.clear();
    this.bought = [];
    this.#draw();
  }

  #draw() {
    const lines = [...this.lines.values()].reverse();
    const inside = $("lines").contains(document.activeElement) || document.activeElement === $("buy");
    $("lines").replaceChildren(...lines.map(({ product, quantity }) =>
      el("li.line", { data: { item: product.id } },
        el("span.line-name", { title: product.name }, quantity > 1 ? `${quantity} × ${product.name}` : product.name),
        el("span.line-price", {}, asMoney(product.price * quantity)),
        el("button.remove", { type: "button", "aria-label": `Remove ${product.name}`, onclick: () => this.onRemove(product) }, "Remove"),
      )));
    $("checkout").hidden = $("dock-count").hidden = $("bar-count").hidden = !lines.length;
    $("cart-empty").hidden = lines.length > 0;
    // What had the focus is gone: the keyboard goes on at the cart, not at the top of the page.
    if (inside) $("cart").focus({ preventScroll: true });
    const count = lines.reduce((sum, { quantity }) => sum + quantity, 0);
    text($("cart-count"), count ? plural(count, "item") : "");
    text($("dock-count"), String(count));
    text($("bar-count"), String(count));
    text($("total"), asMoney(lines.reduce((sum, { product, quantity }) => sum + product.price * quantity, 0)) || "on request");
  }
}
