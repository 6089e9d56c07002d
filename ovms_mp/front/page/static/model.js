// SPDX-License-Identifier: Apache-2.0
// A model's view: its versions, what one of them takes and gives, is doing, and answers.

import { modelActions } from "./admin.js";
import { h, order, say } from "./dom.js";
import { count, duration, number, shape } from "./format.js";
import { addressOf } from "./models.js";
import { Plot } from "./plot.js";
import { Snippets, programs } from "./snippets.js";
import { keyOf, stateOf } from "./store.js";
import { TryIt } from "./tryit.js";

class Figure {
  constructor(name, lines = 1, hasPlot = true) {
    this.value = h("span", { class: "value" });
    this.note = h("span", { class: "note" });
    this.plot = hasPlot ? new Plot(`${name}, last two minutes`, { lines }) : null;
    this.element = h("div", { class: "tile", role: "group", "aria-label": name }, h("span", { class: "name" }, name), h("span", { class: "figure" }, this.value), this.note, this.plot?.element);
  }

  show(value, note, series) {
    say(this.value, value);
    say(this.note, note);
    this.plot?.draw(series, 0);
  }
}

function tensorTable(title, tensors) {
  return h(
    "table",
    { class: "tensors" },
    h("caption", {}, title),
    h("thead", {}, h("tr", {}, ["Name", "Type", "Shape", "Layout"].map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      tensors.map((tensor) =>
        h("tr", {}, h("th", { scope: "row" }, h("bdi", { class: "code" }, tensor.name)), h("td", { class: "code" }, tensor.dtype), h("td", { class: "code" }, shape(tensor.bounds)), h("td", { class: "code" }, tensor.layout || "–")),
      ),
    ),
  );
}

export class ModelView {
  constructor(store, name, version) {
    this.store = store;
    this.name = name;
    this.asked = version;
    this.shown = "";
    this.state = h("span", { class: "state" });
    this.versions = h("nav", { class: "versions", "aria-label": "Versions" });
    this.message = h("p", { class: "refusal" });
    this.rate = new Figure("Requests per s");
    this.latency = new Figure("Latency", 2);
    this.queue = new Figure("Waits at the worker");
    this.runs = new Figure("Engine", 1, false);
    this.tensors = h("div", { class: "pair" });
    this.detail = h("p", { class: "quiet detail" });
    this.tryIt = new TryIt(name);
    this.snippets = new Snippets();
    this.served = h(
      "div",
      { class: "view" },
      h("section", { class: "tiles four", "aria-label": "This version now" }, [this.rate, this.latency, this.queue, this.runs].map((figure) => figure.element)),
      h("section", { "aria-labelledby": "tensors-title" }, h("div", { class: "heading" }, h("h2", { id: "tensors-title" }, "Inputs and outputs")), this.tensors, this.detail),
      h("div", { class: "pair" }, this.tryIt.element, this.snippets.element),
    );
    this.element = h(
      "div",
      { class: "view" },
      h(
        "div",
        { class: "title-bar" },
        h("a", { href: "#", class: "back" }, "Overview"),
        h("h1", {}, h("bdi", {}, name)),
        this.state,
        h("span", { class: "spring" }),
        h("span", { class: "actions" }, modelActions(store, name)),
      ),
      this.versions,
      this.message,
      this.served,
    );
  }

  update() {
    const model = this.store.model(this.name);
    const version = model && (model.versions.find((each) => each.version === (this.asked || model.default)) ?? (this.asked ? null : model.versions[0]));
    if (!version) {
      say(this.message, !model ? "There is no model of this name." : this.asked ? `There is no version ${this.asked} of this model.` : "There is no version of this model yet.");
      this.served.hidden = true;
      say(this.state, "");
      this.state.className = "";
      order(this.versions, []);
      this.shownVersions = "";
      return;
    }
    this.showVersions(model, version);
    const { word, tone } = stateOf(model, version);
    say(this.state, word);
    this.state.className = `state ${tone}`;
    say(this.message, version.message);
    this.served.hidden = !version.inputs.length && !version.outputs.length;
    const identity = JSON.stringify([version.version, version.inputs, version.outputs]);
    if (this.shown !== identity) {
      this.shown = identity;
      order(this.tensors, [tensorTable("Inputs", version.inputs), tensorTable("Outputs", version.outputs)]);
      this.tryIt.show(version);
      this.snippets.show(programs(this.store.state.server, this.name, version));
    }
    const hidden = version.hidden_inputs + version.hidden_outputs;
    say(this.detail, [hidden ? `${hidden} more inputs and outputs are not shown; the model's metadata has all.` : "", version.detail].filter(Boolean).join(" "));
    this.showFigures(version);
  }

  showVersions(model, version) {
    const now = JSON.stringify([model.default, version.version, model.versions.map((each) => [each.version, each.state, each.is_failed])]);
    if (this.shownVersions === now) return;
    this.shownVersions = now;
    const links = model.versions.map((each) => {
      const { word, tone } = stateOf(model, each);
      const current = each.version === version.version;
      return h(
        "a",
        { href: addressOf(model.name, each.version), class: `chip ${tone}`, "aria-current": current ? "page" : false },
        `v${each.version} `,
        h("span", { class: "quiet" }, each.version === model.default ? "default" : word.toLowerCase()),
      );
    });
    order(this.versions, links);
  }

  showFigures(version) {
    const key = keyOf(this.name, version.version);
    const now = this.store.now.get(key) ?? {};
    const lines = this.store.series.get(key)?.lines ?? {};
    const has = this.store.state.server.has_metrics;
    this.rate.show(number(now.answers_per_s ?? 0), `${count(now.requests ?? 0)} in all`, [lines.answers_per_s ?? []]);
    if (has) this.latency.show(duration(now.p50_ms), `p50 · p95 ${duration(now.p95_ms)} · p99 ${duration(now.p99_ms)}`, [lines.p50_ms ?? [], lines.p99_ms ?? []]);
    else this.latency.show(duration(now.mean_ms), "mean; percentiles: --metrics_enable", [lines.mean_ms ?? [], []]);
    this.queue.show(duration(now.queue_ms), has ? `${count(now.under_way ?? 0)} under way, ${count(now.running ?? 0)} running` : "mean", [lines.queue_ms ?? []]);
    const workers = `${version.workers} worker${version.workers === 1 ? "" : "s"}`;
    this.runs.show(`${version.streams} stream${version.streams === 1 ? "" : "s"}`, `${workers}, ${version.infer_requests} infer requests, batch ${number(now.batch)}, run ${duration(now.infer_ms)}`);
  }
}
