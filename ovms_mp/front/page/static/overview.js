// SPDX-License-Identifier: Apache-2.0
// The overview: tiles, models, processes, cores, events.

import { Cores } from "./cores.js";
import { h } from "./dom.js";
import { Events } from "./events.js";
import { Models } from "./models.js";
import { Processes } from "./processes.js";
import { Tiles } from "./tiles.js";

export class Overview {
  constructor(store) {
    this.parts = [new Tiles(store), new Models(store), new Processes(store), new Cores(store), new Events(store)];
    const [tiles, models, processes, cores, events] = this.parts.map((part) => part.element);
    this.element = h(
      "div",
      { class: "overview" },
      h("h1", { class: "unseen" }, "Overview"),
      tiles,
      models,
      processes,
      h("div", { class: "pair" }, cores, events),
    );
  }

  update() {
    for (const part of this.parts) part.update();
  }
}
