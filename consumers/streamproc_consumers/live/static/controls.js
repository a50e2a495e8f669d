// The demonstration's buttons: promote, roll back, and kill the worker. An engine without them shows none.

import { json } from "./api.js";
import { asCount, el, plural, text } from "./dom.js";

export class Buttons {
  /** Ask for what a press needs; without an address or an answer there are no buttons. */
  static async open(address) {
    const session = address && (await json(address).catch(() => null));
    return new Buttons(address, session);
  }

  constructor(address, session) {
    this.address = address;
    this.session = session;
    this.models = [];
    this.drill = [];
    this.told = -1;
    if (session) this.#build();
  }

  #build() {
    this.versions = el("ul.versions");
    this.back = el("button.press", { type: "button", onclick: () => this.#press(this.back, "rollback", {}, this.modelNote) }, "Roll back");
    this.modelNote = el("p.note", { role: "status" });
    this.models = [this.versions, el("div.presses", {}, this.back), this.modelNote];
    this.killing = el("button.press.danger", { type: "button", id: "kill", onclick: () => this.#press(this.killing, "kill", {}, this.drillNote) }, "Kill the worker");
    this.steps = el("ol.steps", { id: "steps" });
    this.proof = el("dl.proof", { id: "proof", hidden: true });
    this.drillNote = el("p.note", { role: "status" });
    this.drill = [el("div.presses", {}, this.killing), this.steps, this.proof, this.drillNote];
  }

  async #press(button, what, body, note) {
    button.disabled = true;
    this.pressed = what;
    text(note, "");
    try {
      const { why } = await json(`${this.address}/${what}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", [this.session.header]: this.session.token },
        body: JSON.stringify(body),
      });
      if (why) throw new Error(why);
    } catch (error) {
      text(note, error.message);
      return error;
    } finally {
      button.disabled = false;
    }
    return null;
  }

  show(models, drill) {
    if (!this.session || !models) return;
    this.#models(models);
    this.#drill(drill);
  }

  #models({ champion, previous, versions, note }) {
    this.back.disabled = !previous;
    this.back.title = previous ? `The champion becomes ${previous} again` : "The champion was nothing else before";
    const now = JSON.stringify([champion, previous, versions]);
    if (this.shown !== now) {
      this.shown = now;
      this.versions.replaceChildren(...versions.map((version) => this.#version(version, champion)));
      text(this.modelNote, "");
    }
    if (note) text(this.modelNote, note);
  }

  #version({ version, generators, hitRate, aliases }, champion) {
    const promote = el("button.press", { type: "button", "aria-label": `Promote ${version}`, onclick: async () => {
      // The gate says no: whoever presses once more overrules it, and the alias keeps the reason.
      const force = promote.dataset.refused ? "overruled on the live page" : null;
      const error = await this.#press(promote, "promote", { version, force }, this.modelNote);
      if (error && !force) {
        promote.dataset.refused = "yes";
        text(promote, "Promote anyway");
      }
    } }, "Promote");
    const rate = hitRate === null ? "" : `, hits ${(100 * hitRate).toFixed(0)} % of held-out baskets`;
    return el("li", { data: { version } },
      el("div", {}, el("code", {}, version.slice(0, 8)), ...aliases.map((alias) => el("span.alias", {}, alias)),
        el("p.note", {}, `${plural(generators.length, "generator")}${rate}`)),
      version === champion ? null : promote);
  }

  #drill({ number, running, steps, proof, failed }) {
    this.killing.disabled = running;
    const now = `${number}/${steps.length}/${running}`;
    if (this.told === now) return;
    this.told = now;
    this.steps.replaceChildren(...steps.map(({ at, told }) => el("li", {}, el("span.at", {}, `${at.toFixed(1)} s`), told)));
    this.proof.hidden = !proof;
    this.proof.dataset.number = number;
    text(this.drillNote, failed || (proof ? sentence(proof) : ""));
    if (proof) this.#prove(proof);
    // Whoever pressed the button sees what comes of it, in the panel's own scrolling.
    if (this.pressed === "kill" && number) this.drillNote.scrollIntoView({ block: "nearest" });
  }

  #prove(proof) {
    const rows = { sent: proof.sent, applied: proof.applied, lost: proof.lost, "applied twice": proof.twice };
    this.proof.replaceChildren(...Object.entries(rows).map(([name, value]) =>
      el("div", { data: { count: name } }, el("dt", {}, name), el("dd", {}, asCount(value)))));
    this.proof.classList.toggle("broken", !proof.equal);
  }
}

function sentence({ shoppers, equal, repeated }) {
  const lists = repeated ? ` ${asCount(repeated)} lists came a second time, under the same id.` : "";
  return equal
    ? `All ${asCount(shoppers)} states in DynamoDB and Redis equal one single-threaded fold of what was sent.${lists}`
    : "A state differs from the single-threaded fold of what was sent: this must not happen.";
}
