// SPDX-License-Identifier: Apache-2.0
// The overview: the fleet where there is one, tiles, models, processes, cores, events.

import { Cores } from "./cores.js";
import { h } from "./dom.js";
import { Events } from "./events.js";
import { Fleet } from "./fleet.js";
import { Models } from "./models.js";
import { Processes } from "./processes.js";
import { Tiles } from "./tiles.js";

export class Overview {
  constructor(store) {
    this.parts = [new Fleet(store), new Tiles(store), new Models(store), new Processes(store), new Cores(store), new Events(store)];
    const [fleet, tiles, models, processes, cores, events] = this.parts.map((part) => part.element);
    this.element = h(
      "div",
      { class: "overview" },
      h("h1", { class: "unseen" }, "Overview"),
      fleet,
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
