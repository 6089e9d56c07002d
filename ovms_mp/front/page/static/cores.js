// SPDX-License-Identifier: Apache-2.0
// How the machine's cores are divided, and in the server's own words why.

import { h, order, say } from "./dom.js";
import { bytes, count } from "./format.js";

const TONES = 6;

export class Cores {
  constructor(store) {
    this.store = store;
    this.shown = null;
    this.map = h("ol", { class: "cores", "aria-label": "Cores and whose they are" });
    this.plan = h("ul", { class: "plan" });
    this.transfers = h("p", { class: "transfers" });
    this.progress = h("progress", { class: "transfer", "aria-label": "Download from object stores", hidden: true });
    this.element = h(
      "section",
      { "aria-labelledby": "cores-title" },
      h("div", { class: "heading" }, h("h2", { id: "cores-title" }, "Cores")),
      this.map,
      this.plan,
      h("div", { class: "heading" }, h("h2", {}, "Transfers from stores")),
      this.transfers,
      this.progress,
    );
  }

  update() {
    this.updateTransfers();
    if (this.shown === this.store.state) return;
    this.shown = this.store.state;
    const { server, workers, plan } = this.store.state;
    order(this.map, server.cores.map((core) => coreElement(core, workers)));
    order(this.plan, plan.map((line) => h("li", {}, line)));
  }

  updateTransfers() {
    const done = this.store.sample?.transfers;
    const isLoading = Boolean(done?.under_way && done.wanted_bytes);
    const now = isLoading ? `, ${bytes(done.here_bytes)} of ${bytes(done.wanted_bytes)} downloaded` : "";
    const text = [
      done?.under_way ? `${count(done.under_way)} under way${now}.` : "",
      done && (done.done || done.failed) ? `${count(done.done)} done, ${count(done.failed)} failed, ${bytes(done.bytes)} downloaded since the start.` : "",
    ].filter(Boolean);
    say(this.transfers, text.join(" ") || "Nothing has been fetched from an object store.");
    this.progress.hidden = !isLoading;
    if (!isLoading) return;
    this.progress.max = done.wanted_bytes;
    this.progress.value = done.here_bytes;
  }
}

function coreElement(core, workers) {
  const mine = workers.filter((worker) => worker.cores.includes(core));
  const tone = mine.length === 1 ? ` tone-${workers.indexOf(mine[0]) % TONES}` : mine.length ? " tone-shared" : "";
  const names = mine.map((worker) => worker.name).join(", ") || "no worker";
  return h("li", { class: `core${tone}`, title: `core ${core}: ${names}` }, h("span", { class: "unseen" }, `core ${core}: ${names}`), h("span", { "aria-hidden": "true" }, String(core)));
}
