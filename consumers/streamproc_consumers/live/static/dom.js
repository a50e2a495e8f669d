// Small helpers: elements without markup in strings, words, numbers, and the coloured monograms of products.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element: `el("button.add", {type: "button", onclick}, "Add")`. Text is text: nothing is parsed as markup. */
export function el(what, properties = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  return fill(element, properties, children);
}

/** The same in SVG; all properties are attributes. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text only where it changed, so that nothing is laid out or announced for nothing. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

let money = priced("GBP");
const whole = new Intl.NumberFormat("en-GB");
export const asMoney = (value) => (value > 0 ? money.format(value) : "");
/** Prices are in this currency from now on, by its code (ISO 4217). */
export function priceIn(currency) {
  money = priced(currency);
}

function priced(currency) {
  return new Intl.NumberFormat("en-GB", { style: "currency", currency });
}

export const asCount = (value) => whole.format(value);
export const plural = (count, one, many = `${one}s`) => `${asCount(count)} ${count === 1 ? one : many}`;

/** "WHITE HANGING HEART  T-LIGHT" as a shop would write it. */
export function asName(name, id) {
  const clean = (name || "").trim().replace(/\s+/g, " ");
  if (!clean) return `Product ${id}`;
  if (clean !== clean.toUpperCase()) return clean;
  const lower = clean.toLowerCase().replace(/ ?, ?/g, ", ");
  return lower.charAt(0).toUpperCase() + lower.slice(1);
}

function hash(value) {
  let result = 2166136261;
  for (let at = 0; at < value.length; at++) result = Math.imul(result ^ value.charCodeAt(at), 16777619);
  return result >>> 0;
}

/** What the name says of the colour goes before all else. */
const COLOURS = { red: 25, pink: 355, rose: 8, blue: 250, green: 150, purple: 312, lilac: 312, yellow: 98, gold: 85, orange: 58, turquoise: 195, mint: 168, ivory: 92, cream: 92 };
const HUES = [25, 60, 95, 150, 195, 240, 285, 345];
const SMALL_WORDS = new Set(["set", "of", "the", "and", "with", "in", "a", "pack", "box", "assorted", "design", "small", "large"]);

/** A product without a picture: the first letters of its name on a tint and a shape that are always the same for it. */
export function art(product) {
  const words = product.name.toLowerCase().match(/[a-z]{2,}/g) ?? [];
  const telling = words.filter((word) => !SMALL_WORDS.has(word));
  const named = telling.length ? telling : words;
  const letters = [...new Set([named[0], named.at(-1)])].filter(Boolean).map((word) => word[0].toUpperCase()).join("");
  const number = hash(product.id);
  const colour = words.find((word) => word in COLOURS);
  const hue = (colour ? COLOURS[colour] : HUES[hash(telling.at(-1) || product.id) % HUES.length]) + (number % 13) - 6;
  const ink = `oklch(var(--tile-ink-l) var(--tile-ink-c) ${hue})`;
  const drawing = svg("svg", { viewBox: "0 0 80 60", preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" },
    paint(svg("rect", { width: 80, height: 60 }), `oklch(var(--tile-l) var(--tile-c) ${hue})`),
    paint(shape(number), `oklch(var(--tile-ink-l) var(--tile-ink-c) ${hue} / .13)`),
    paint(svg("text", { x: 40, y: 38.5, "text-anchor": "middle", "font-size": 24, "font-weight": 600, "font-family": "Iowan Old Style, Palatino, P052, Georgia, DejaVu Serif, serif", "letter-spacing": ".5" }, letters || "·"), ink));
  return drawing;
}

// Through the object model: an attribute would be an inline style, which the content security policy forbids.
function paint(element, colour) {
  element.style.fill = colour;
  return element;
}

function shape(number) {
  const along = 8 + (number >> 5) % 64;
  switch (number % 5) {
    case 0: return svg("circle", { cx: along, cy: (number >> 9) % 60, r: 26 });
    case 1: return svg("path", { d: `M0 60V${20 + ((number >> 7) % 24)}Q${along} ${(number >> 9) % 40} 80 ${24 + ((number >> 8) % 28)}V60z` });
    case 2: return svg("path", { d: `M${along - 30} 60 ${along} 8l30 52z` });
    case 3: return svg("rect", { x: along - 20, y: -10, width: 40, height: 80, transform: `rotate(${(number >> 8) % 70} 40 30)` });
    default: return svg("path", { d: `M${along} 60a30 30 0 0 1 60 0zM${along - 60} 60a30 30 0 0 1 60 0z` });
  }
}

/** Move the children of `parent` into this order, each sliding from where it was (FLIP). */
export function reorder(parent, children) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const before = new Map([...parent.children].map((child) => [child, child.getBoundingClientRect().top]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  parent.replaceChildren(...children);
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  if (calm) return;
  for (const child of children) {
    const was = before.get(child);
    if (was === undefined) {
      child.animate([{ opacity: 0, transform: "translateX(18px)" }, { opacity: 1, transform: "none" }], { duration: 380, easing: "cubic-bezier(.2,.7,.2,1)" });
      continue;
    }
    const by = was - child.getBoundingClientRect().top;
    if (by) child.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 460, easing: "cubic-bezier(.2,.7,.2,1)" });
  }
}
