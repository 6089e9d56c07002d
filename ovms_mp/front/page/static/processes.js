// SPDX-License-Identifier: Apache-2.0
// The processes, where they stand in a request's way, with what each takes of the machine.

import { Rows, h, mark, say, stretch } from "./dom.js";
import { age, bytes, count, percent } from "./format.js";

const LANES = [
  { id: "manager", title: "Manager", kinds: ["manager"], says: "starts, watches and replaces all others" },
  { id: "fronts", title: "Fronts", kinds: ["grpc", "arbiter", "rest"], says: "take requests" },
  { id: "workers", title: "Inference workers", kinds: ["worker"], says: "run the models" },
  { id: "helpers", title: "Helpers", kinds: ["fetcher", "probe"], says: "download and try versions" },
];
const WORDS = { grpc: "gRPC front", rest: "REST front", arbiter: "REST arbiter", probe: "trial", fetcher: "fetcher", manager: "manager" };

class ProcessRow {
  constructor() {
    this.name = h("span", { class: "who" });
    this.pid = h("span", { class: "quiet", title: "process id" });
    this.bar = h("span", { class: "fill" });
    this.cpu = h("span", { class: "number" });
    this.memory = h("span", { class: "number" });
    this.age = h("span", { class: "number quiet" });
    this.element = h(
      "li",
      { class: "process" },
      h("span", { class: "title" }, this.name, " ", this.pid),
      h("span", { class: "load" }, h("span", { class: "bar", "aria-hidden": "true" }, this.bar), h("span", { class: "unseen" }, "processor "), this.cpu),
      h("span", { class: "unseen" }, "memory "),
      this.memory,
      h("span", { class: "unseen" }, "running for "),
      this.age,
    );
  }

  update({ process, worker, cores }) {
    const word = WORDS[process.kind] ?? process.kind;
    say(this.name, worker ? `${worker.name} · ${worker.device}` : process.kind === "probe" ? `trial of ${process.name}` : word);
    say(this.pid, String(process.pid));
    const most = worker ? worker.cores.length || cores : 1;
    stretch(this.bar, (process.cores ?? 0) / most);
    mark(this.bar, "hot", (process.cores ?? 0) / most > 0.9);
    say(this.cpu, process.cores === null ? "–" : percent(process.cores));
    say(this.memory, bytes(process.own_bytes));
    this.memory.title = `private; ${bytes(process.shared_bytes)} shared with others`;
    say(this.age, age(process.age_s));
  }
}

class Lane {
  constructor(lane) {
    this.lane = lane;
    this.summary = h("span", { class: "quiet" });
    this.list = h("ul", { "aria-label": lane.title });
    this.rows = new Rows(this.list, () => new ProcessRow());
    this.element = h(
      "div",
      { class: `lane ${lane.id}` },
      h("div", { class: "lane-head" }, h("h3", {}, lane.title), h("span", { class: "says" }, lane.says), h("span", { class: "spring" }), this.summary),
      this.list,
    );
  }

  update(processes, store) {
    const { kinds } = this.lane;
    const workers = new Map(store.state.workers.map((worker) => [worker.pid, worker]));
    const mine = processes.filter((process) => kinds.includes(process.kind));
    mine.sort((one, other) => kinds.indexOf(one.kind) - kinds.indexOf(other.kind) || one.name.localeCompare(other.name, "en", { numeric: true }));
    const cores = store.state.server.cores.length;
    this.rows.update(
      mine.map((process) => ({ process, worker: workers.get(process.pid), cores })),
      (item) => item.process.pid,
    );
    mark(this.list, "many", mine.length > 8);
    const ends = kinds.map((kind) => [WORDS[kind] ?? kind, store.sample.ends?.[kind] ?? 0]).filter(([, number]) => number);
    const which = kinds.length > 1 ? ` (${ends.map(([word, number]) => `${word} ${count(number)}`).join(", ")})` : "";
    const restarts = ends.length ? `${count(ends.reduce((sum, [, number]) => sum + number, 0))} replaced after an unexpected end${which}` : "";
    say(this.summary, [mine.length > 1 ? `${mine.length} processes` : "", restarts].filter(Boolean).join(", "));
    mark(this.summary, "alarming", ends.length > 0);
    this.element.hidden = !mine.length;
  }
}

export class Processes {
  constructor(store) {
    this.store = store;
    this.lanes = new Map(LANES.map((lane) => [lane.id, new Lane(lane)]));
    this.memory = h("ul", { "aria-label": "Shared memory" });
    this.arenas = new Rows(this.memory, () => new Arena());
    const lane = (id) => this.lanes.get(id).element;
    const shared = h(
      "div",
      { class: "lane shared" },
      h("div", { class: "lane-head" }, h("h3", {}, "Shared memory"), h("span", { class: "says" }, "tensors, passed without a copy")),
      this.memory,
    );
    this.element = h(
      "section",
      { "aria-labelledby": "processes-title" },
      h("div", { class: "heading" }, h("h2", { id: "processes-title" }, "Processes")),
      h("div", { class: "picture" }, lane("manager"), lane("fronts"), shared, lane("workers"), lane("helpers")),
    );
  }

  update() {
    const { sample } = this.store;
    if (!sample) return;
    for (const lane of this.lanes.values()) lane.update(sample.processes, this.store);
    this.arenas.update(
      sample.arenas.map((arena, index) => ({ arena, index })),
      (item) => item.index,
    );
  }
}

class Arena {
  constructor() {
    this.name = h("span", { class: "title" });
    this.bar = h("span", { class: "fill" });
    this.text = h("span", { class: "number" });
    this.element = h("li", { class: "arena" }, this.name, h("span", { class: "bar", "aria-hidden": "true" }, this.bar), this.text);
  }

  update({ arena }) {
    say(this.name, `${arena.interface} front`);
    stretch(this.bar, arena.leased_bytes / arena.size_bytes);
    say(this.text, `${bytes(arena.leased_bytes)} of ${bytes(arena.size_bytes)} leased`);
  }
}
