// SPDX-License-Identifier: Apache-2.0
// All versions with their state and what each is doing.

import { Rows, h, mark, say } from "./dom.js";
import { count, ms, number } from "./format.js";
import { Plot } from "./plot.js";
import { keyOf, stateOf } from "./store.js";

const MOST_SHOWN = 100;
const FILTERED_FROM = 12;
const MOST_NAMED = 8;
const LONGEST_NAMED = 60;

/** The address of a model's view. */
export function addressOf(name, version) {
  return `#${new URLSearchParams(version ? { model: name, version } : { model: name })}`;
}

class VersionRow {
  constructor({ model, version }) {
    this.state = h("span", { class: "state" });
    this.isDefault = h("span", { class: "tag" }, "default");
    this.message = h("span", { class: "message" });
    this.plot = new Plot(`Requests of ${model.name} version ${version.version}, last two minutes`, { height: 20 });
    this.cells = Array.from({ length: 9 }, () => h("td", { class: "number" }));
    this.element = h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        h("a", { href: addressOf(model.name, version.version) }, h("bdi", {}, model.name)),
        " ",
        h("span", { class: "version" }, `v${version.version}`),
        " ",
        this.isDefault,
        this.message,
      ),
      h("td", {}, this.state),
      h("td", { class: "spark" }, this.plot.element),
      ...this.cells,
    );
  }

  update({ model, version, now, series }) {
    const { word, tone } = stateOf(model, version);
    say(this.state, word);
    this.state.className = `state ${tone}`;
    this.isDefault.hidden = model.default !== version.version || model.versions.length === 1;
    const retry = version.retry_in_s === null || !version.is_failed ? "" : " (it is tried again)";
    const message = version.message && (version.is_failed || version.state !== "END") ? version.message + retry : "";
    this.message.hidden = !message;
    say(this.message, message);
    this.plot.draw([series?.lines.answers_per_s ?? []], 1);
    const serves = version.workers > 0;
    const values = [
      number(now?.answers_per_s ?? (serves ? 0 : null)),
      number(now?.failures_per_s ?? (serves ? 0 : null)),
      ms(now?.p50_ms ?? now?.mean_ms),
      ms(now?.p99_ms),
      ms(now?.queue_ms),
      count(now?.under_way),
      number(now?.batch),
      serves ? count(version.streams) : "–",
      serves ? count(version.infer_requests) : "–",
    ];
    values.forEach((value, index) => say(this.cells[index], value));
    mark(this.cells[1], "alarming", (now?.failures_per_s ?? 0) > 0);
  }
}

export class Models {
  constructor(store) {
    this.store = store;
    this.isWhole = false;
    this.summary = h("span", { class: "quiet" });
    this.filter = h("input", { type: "search", "aria-label": "Filter models", placeholder: "Filter models", oninput: () => this.update() });
    this.latency = h("th", { scope: "col", class: "number" });
    this.body = h("tbody");
    this.more = h("button", { type: "button", onclick: () => this.showAll() });
    this.hint = h("p", { class: "quiet" });
    this.rows = new Rows(this.body, (item) => new VersionRow(item));
    const head = (text, title) => h("th", { scope: "col", class: "number", title }, text);
    this.element = h(
      "section",
      { "aria-labelledby": "models-title" },
      h("div", { class: "heading" }, h("h2", { id: "models-title" }, "Models"), this.summary, h("span", { class: "spring" }), this.filter),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of models" },
        h(
          "table",
          { class: "models" },
          h("caption", { class: "unseen" }, "Versions of all models, with their state and what each is doing. Times are in milliseconds."),
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "Model"),
              h("th", { scope: "col" }, "State"),
              h("th", { scope: "col" }, "Last 2 min"),
              head("Req/s"),
              head("Fail/s"),
              this.latency,
              head("p99 ms"),
              head("Queue ms", "Mean time that a request waits at the worker"),
              head("Under way", "Requests that are being answered"),
              head("Batch", "Mean number of items that an inference runs"),
              head("Streams", "Inferences that the engine runs at once"),
              head("Infer req.", "Infer requests of the engine"),
            ),
          ),
          this.body,
        ),
      ),
      this.more,
      this.hint,
    );
  }

  showAll() {
    this.isWhole = true;
    this.update();
  }

  update() {
    const { store } = this;
    const all = store.versions();
    const sought = this.filter.value.trim().toLowerCase();
    const found = sought ? all.filter(({ model }) => model.name.toLowerCase().includes(sought)) : all;
    const shown = this.isWhole ? found : found.slice(0, MOST_SHOWN);
    this.filter.hidden = all.length < FILTERED_FROM;
    this.more.hidden = shown.length === found.length;
    say(this.more, `Show all ${found.length} versions`);
    say(this.latency, store.state.server.has_metrics ? "p50 ms" : "Mean ms");
    this.rows.update(
      shown.map(({ model, version }) => {
        const key = keyOf(model.name, version.version);
        return { model, version, key, now: store.now.get(key), series: store.series.get(key) };
      }),
      (item) => item.key,
    );
    const failed = all.filter(({ version }) => version.is_failed).length;
    const serving = all.filter(({ version }) => version.workers > 0).length;
    say(this.summary, `${serving} of ${all.length} version${all.length === 1 ? "" : "s"} available${failed ? `, ${failed} failed` : ""}`);
    const hidden = store.state.hidden_versions;
    const empty = store.state.models.filter((model) => !model.versions.length).map(({ name }) => (name.length > LONGEST_NAMED ? `${name.slice(0, LONGEST_NAMED)}…` : name));
    const hints = [
      store.state.models.length ? "" : "No model is configured.",
      empty.length ? `Without a version yet: ${empty.slice(0, MOST_NAMED).join(", ")}${empty.length > MOST_NAMED ? ` and ${empty.length - MOST_NAMED} more` : ""}.` : "",
      hidden ? `${hidden} more versions are served than a page shows, and are in none of its figures; /v1/status has all.` : "",
      store.state.server.has_metrics ? "" : "Percentiles and requests under way are counted with --metrics_enable.",
    ].filter(Boolean);
    this.hint.hidden = !hints.length;
    say(this.hint, hints.join(" "));
  }
}
