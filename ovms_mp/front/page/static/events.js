// SPDX-License-Identifier: Apache-2.0
// What has happened lately, the newest first.

import { h, order } from "./dom.js";
import { clock } from "./format.js";

const WORDS = { info: "", warning: "Warning: ", error: "Error: " };
const MOST_SHOWN = 50;

export class Events {
  constructor(store) {
    this.store = store;
    this.shown = null;
    this.list = h("ol", { class: "events", tabindex: "0", "aria-labelledby": "events-title" });
    this.element = h("section", { "aria-labelledby": "events-title" }, h("div", { class: "heading" }, h("h2", { id: "events-title" }, "Events")), this.list);
  }

  update() {
    if (this.shown === this.store.state) return;
    this.shown = this.store.state;
    const events = this.store.state.events.slice(-MOST_SHOWN).reverse();
    const rows = events.map((event) =>
      h(
        "li",
        { class: event.level },
        h("time", { datetime: new Date(event.at_s * 1000).toISOString() }, clock(event.at_s)),
        h("span", {}, h("span", { class: "unseen" }, WORDS[event.level] ?? ""), event.text),
      ),
    );
    order(this.list, rows.length ? rows : [h("li", { class: "quiet" }, h("span", {}, "Nothing since this front process has started."))]);
  }
}
