// SPDX-License-Identifier: Apache-2.0
// An answer: where its time went, and what it says.

import { h, stretch } from "./dom.js";
import { bytes, duration } from "./format.js";
import { decode, isKnown, nest, sizeOf, valueText } from "./tensors.js";

const MEANINGS = {
  receive: "The request's body arrives",
  decode: "It is read and written to shared memory",
  queue: "It waits for an infer request",
  infer: "The model runs",
  handover: "Between the processes",
  encode: "The answer is written",
  network: "The network, and this browser",
};
const MOST_VALUES = 1000;
const MOST_READ = 1 << 20;
const TOP = 5;

/** The stages one below the other, each where it begins. */
export function waterfall(stages, totalMs) {
  const served = stages.reduce((sum, stage) => sum + stage.ms, 0);
  const all = [...stages, { name: "network", ms: Math.max(0, totalMs - served) }];
  const whole = all.reduce((sum, stage) => sum + stage.ms, 0);
  let begun = 0;
  const rows = all.map(({ name, ms }) => {
    const fill = h("span", { class: `fill stage-${name}` });
    stretch(fill, begun / whole, "margin-left");
    stretch(fill, ms / whole);
    begun += ms;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", { class: "track" }, h("span", { class: "bar", "aria-hidden": "true" }, fill)),
      h("td", { class: "number" }, duration(ms)),
      h("td", { class: "quiet meaning" }, MEANINGS[name] ?? ""),
    );
  });
  return h(
    "table",
    { class: "waterfall" },
    h("caption", {}, `${duration(totalMs)} in all, ${duration(served)} of them at the server`),
    h("thead", { class: "unseen" }, h("tr", {}, ["Stage", "When", "Time", "Meaning"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows),
  );
}

/** An output's values. */
export function outputElement(output) {
  const head = h("h4", {}, h("bdi", { class: "code" }, output.name), " ", h("span", { class: "quiet" }, `${output.dtype} [${output.shape.join(", ")}]`));
  if (!output.octets || !isKnown(output.dtype)) {
    const text = output.data === undefined ? `${bytes(output.octets?.length ?? 0)} that this page cannot read` : JSON.stringify(output.data).slice(0, 10_000);
    return h("div", { class: "output" }, head, h("pre", { tabindex: "0" }, text));
  }
  const values = decode(output.dtype, output.octets, areScores(output) ? MOST_READ : MOST_VALUES);
  return h("div", { class: "output" }, head, areScores(output) ? highest(values) : null, valuesElement(values, output));
}

/** Whether they are one item's scores, as a classifier gives them. */
function areScores({ dtype, shape }) {
  const classes = shape.at(-1) ?? 0;
  return (dtype.startsWith("FP") || dtype === "BF16") && classes >= 3 && classes <= MOST_READ && sizeOf(shape) === classes;
}

/** The highest of one item's scores. */
function highest(values) {
  if (values.some((value) => !Number.isFinite(value))) return null;
  const top = values.map((value, index) => ({ value, index })).sort((one, other) => other.value - one.value).slice(0, TOP);
  const least = Math.min(0, top.at(-1).value);
  const range = top[0].value - least || 1;
  return h(
    "table",
    { class: "highest" },
    h("caption", { class: "unseen" }, "The highest values"),
    h("thead", { class: "unseen" }, h("tr", {}, ["Index", "Share", "Value"].map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      top.map(({ value, index }) => {
        const fill = h("span", { class: "fill" });
        stretch(fill, (value - least) / range);
        return h(
          "tr",
          {},
          h("th", { scope: "row", class: "number" }, String(index)),
          h("td", { class: "track" }, h("span", { class: "bar", "aria-hidden": "true" }, fill)),
          h("td", { class: "number" }, short(value)),
        );
      }),
    ),
  );
}

function valuesElement(values, { dtype, shape }) {
  const length = sizeOf(shape);
  const isWhole = length <= MOST_VALUES;
  const shown = values.slice(0, MOST_VALUES).map((value) => valueText(dtype, value));
  const text = isWhole ? lines(nest(shown, shape)) : `[${shown.join(", ")}, …`;
  const title = isWhole ? "Values" : `The first ${MOST_VALUES} of ${length} values`;
  return h("details", { open: length <= 64 }, h("summary", {}, title), h("pre", { tabindex: "0" }, text));
}

/** Nested lists, one row a line. */
function lines(nested, indent = "") {
  if (!Array.isArray(nested)) return indent + nested;
  if (!Array.isArray(nested[0])) return `${indent}[${nested.join(", ")}]`;
  return `${indent}[\n${nested.map((each) => lines(each, `${indent}  `)).join(",\n")}\n${indent}]`;
}

function short(value) {
  return Math.abs(value) >= 1e-4 || value === 0 ? value.toFixed(4) : value.toExponential(2);
}
