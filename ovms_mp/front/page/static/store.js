// SPDX-License-Identifier: Apache-2.0
// What the server has told, and the last two minutes of it.

import { POINTS } from "./plot.js";

const TOTALS = ["rate", "failures", "p50", "p99", "mean", "underWay", "cpu", "memory"];
const OF_VERSIONS = ["answers_per_s", "p50_ms", "p99_ms", "mean_ms", "queue_ms", "under_way"];

/** The key of a version. */
export function keyOf(model, version) {
  return `${version} ${model}`;
}

class Series {
  constructor(names, length) {
    this.lines = Object.fromEntries(names.map((name) => [name, Array(length).fill(null)]));
  }

  push(values) {
    for (const [name, line] of Object.entries(this.lines)) {
      line.push(values[name] ?? null);
      if (line.length > POINTS) line.shift();
    }
  }
}

export class Store {
  constructor() {
    this.state = null;
    this.sample = null;
    this.totals = {};
    this.now = new Map();
    this.series = new Map();
    this.total = new Series(TOTALS, 0);
  }

  /** Take an event. */
  take(name, data) {
    if (name === "state") this.state = data;
    else if (name === "sample") this.takeSample(data);
  }

  takeSample(sample) {
    this.sample = sample;
    this.now = new Map(sample.versions.map((version) => [keyOf(version.model, version.version), version]));
    this.totals = this.sum(sample);
    if (!sample.elapsed_s) return; // The first one has no rates yet.
    const length = this.total.lines.rate.length;
    this.total.push(this.totals);
    const series = new Map();
    for (const [key, version] of this.now) {
      const known = this.series.get(key) ?? new Series(OF_VERSIONS, length);
      known.push({ ...version, answers_per_s: version.answers_per_s ?? 0 });
      series.set(key, known);
    }
    this.series = series;
  }

  sum(sample) {
    const of = (name) => sample.versions.reduce((sum, version) => sum + (version[name] ?? 0), 0);
    const answers = of("answers_per_s");
    const weighted = sample.versions.reduce((sum, version) => sum + (version.mean_ms ?? 0) * (version.answers_per_s ?? 0), 0);
    const has = this.state?.server.has_metrics;
    return {
      rate: answers,
      failures: of("failures_per_s"),
      p50: sample.p50_ms ?? null,
      p95: sample.p95_ms ?? null,
      p99: sample.p99_ms ?? null,
      mean: answers ? weighted / answers : null,
      underWay: has ? of("under_way") : null,
      cpu: sample.elapsed_s ? sample.processes.reduce((sum, process) => sum + (process.cores ?? 0), 0) : null,
      memory: sample.processes.reduce((sum, process) => sum + process.own_bytes, 0),
    };
  }

  /** All versions, each with its model; in the server's order. */
  versions() {
    return (this.state?.models ?? []).flatMap((model) => model.versions.map((version) => ({ model, version })));
  }

  /** A model by its name. */
  model(name) {
    return this.state?.models.find((model) => model.name === name);
  }
}

/** How a version's state is told: a word and a tone for it. */
export function stateOf(model, version) {
  if (version.is_failed) return { word: "Failed", tone: "bad" };
  if (version.state === "END" && model.is_unloaded) return { word: "Unloaded", tone: "off" };
  const told = {
    START: ["Waiting", "busy"],
    LOADING: ["Loading", "busy"],
    AVAILABLE: ["Available", "good"],
    UNLOADING: ["Unloading", "busy"],
    END: ["Ended", "off"],
  }[version.state] ?? [version.state, "off"];
  return { word: version.is_coming && version.state === "AVAILABLE" ? "Reloading" : told[0], tone: told[1] };
}
