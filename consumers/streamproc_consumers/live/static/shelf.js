// The shelf: search, departments, and the products, a page at a time.

import { $, art, asMoney, el, plural, text } from "./dom.js";

const PAGE = 12;

export class Shelf {
  /** `products` come with the most bought first. */
  constructor(products, onAdd) {
    this.products = products;
    this.onAdd = onAdd;
    this.group = "";
    this.words = [];
    this.shown = PAGE;
    this.buttons = [];
    this.#groups();
    $("search-form").addEventListener("submit", (event) => event.preventDefault());
    $("search").addEventListener("input", (event) => {
      this.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.#again();
    });
    $("more").addEventListener("click", () => {
      const from = this.shown;
      this.shown += PAGE;
      this.#draw();
      $("products").children[from]?.querySelector("button").focus({ preventScroll: true });
    });
    this.#draw();
  }

  mark(cart) {
    for (const [id, button] of this.onShelf) text(button, cart.has(id) ? `Add (${cart.quantity(id)})` : "Add");
  }

  #groups() {
    const counts = new Map();
    for (const { group } of this.products) if (group) counts.set(group, (counts.get(group) ?? 0) + 1);
    const names = [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
    for (const name of names.length ? ["", ...names] : []) {
      const button = el("button.group", { type: "button", "aria-pressed": String(name === ""), onclick: () => {
        this.group = name;
        for (const each of this.buttons) each.setAttribute("aria-pressed", String(each === button));
        this.#again();
      } }, name || "All");
      this.buttons.push(button);
    }
    $("groups").append(...this.buttons);
  }

  #again() {
    this.shown = PAGE;
    this.#draw();
  }

  #draw() {
    const found = this.products.filter(
      ({ name, id, group }) =>
        (!this.group || group === this.group) &&
        this.words.every((word) => name.toLowerCase().includes(word) || id.toLowerCase() === word),
    );
    this.onShelf = new Map();
    $("products").replaceChildren(...found.slice(0, this.shown).map((product) => this.#card(product)));
    $("more").hidden = found.length <= this.shown;
    text($("found"), found.length ? plural(found.length, "product") : "Nothing found. Try another word.");
  }

  #card(product) {
    const button = el("button.add", { type: "button", "aria-label": `Add ${product.name} to the cart`, onclick: () => this.onAdd(product) }, "Add");
    this.onShelf.set(product.id, button);
    return el("li.product", { data: { item: product.id } },
      el("div.art", {}, art(product)),
      el("p.product-name", { title: product.name }, product.name),
      el("div.product-foot", {}, el("span.price", {}, asMoney(product.price)), button),
    );
  }
}
