// SPDX-License-Identifier: Apache-2.0
// The whole server in six numbers, each with its last two minutes.

import { h, mark, say } from "./dom.js";
import { bytes, duration, number } from "./format.js";
import { Plot } from "./plot.js";

class Tile {
  constructor(name, lines = 1) {
    this.value = h("span", { class: "value" });
    this.unit = h("span", { class: "unit" });
    this.note = h("span", { class: "note" });
    this.plot = new Plot(`${name}, last two minutes`, { lines });
    this.element = h(
      "div",
      { class: "tile", role: "group", "aria-label": name },
      h("span", { class: "name" }, name),
      h("span", { class: "figure" }, this.value, this.unit),
      this.note,
      this.plot.element,
    );
  }

  show(value, unit, note, series, least) {
    say(this.value, value);
    say(this.unit, unit);
    say(this.note, note);
    this.plot.draw(series, least);
  }
}

export class Tiles {
  constructor(store) {
    this.store = store;
    this.rate = new Tile("Requests");
    this.failures = new Tile("Failures");
    this.latency = new Tile("Latency", 2);
    this.underWay = new Tile("Under way");
    this.cpu = new Tile("Processor");
    this.memory = new Tile("Memory");
    const tiles = [this.rate, this.failures, this.latency, this.underWay, this.cpu, this.memory];
    this.element = h("section", { class: "tiles", "aria-label": "The server now" }, tiles.map((tile) => tile.element));
  }

  update() {
    const { totals, total, state, sample } = this.store;
    if (!sample) return;
    const lines = total.lines;
    const has = state.server.has_metrics;
    this.rate.show(number(totals.rate), "per s", "", [lines.rate], 1);
    this.failures.show(number(totals.failures), "per s", "", [lines.failures], 1);
    mark(this.failures.element, "alarming", totals.failures > 0);
    if (has) {
      const note = `p50 · p99 ${duration(totals.p99)}`;
      this.latency.show(duration(totals.p50), "", note, [lines.p50, lines.p99]);
      this.underWay.show(number(totals.underWay), "", "requests", [lines.underWay], 1);
    } else {
      this.latency.show(duration(totals.mean), "", "mean; percentiles: --metrics_enable", [lines.mean, []]);
      this.underWay.show("–", "", "counted with --metrics_enable", [[]], 1);
    }
    const cores = state.server.cores.length;
    this.cpu.show(number(totals.cpu), "", `of ${cores} core${cores === 1 ? "" : "s"}`, [lines.cpu], cores);
    const shared = sample.arenas.reduce((sum, arena) => sum + arena.leased_bytes, 0);
    this.memory.show(bytes(totals.memory), "", `private · ${bytes(shared)} leased`, [lines.memory]);
  }
}
