// SPDX-License-Identifier: Apache-2.0
// Lines over the last two minutes, as SVG that styles colour.

import { svg } from "./dom.js";

export const POINTS = 120;
const WIDTH = 240;

/** A plot of some lines. `label`: what a screen reader says it is; its numbers stand beside it. */
export class Plot {
  constructor(label, { height = 40, lines = 1 } = {}) {
    this.height = height;
    this.area = svg("path", { class: "area" });
    this.lines = Array.from({ length: lines }, (_, index) => svg("path", { class: `line line-${index}` }));
    this.element = svg(
      "svg",
      { class: "plot", role: "img", "aria-label": label, viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none" },
      svg("path", { class: "ground", d: `M0 ${height - 0.5}H${WIDTH}` }),
      this.area,
      ...this.lines,
    );
  }

  /** Draw; each series ends now, and has gaps where it is null. `least`: what the top is at least. */
  draw(series, least = 0) {
    let top = least;
    for (const values of series) for (const value of values) if (value > top) top = value;
    series.forEach((values, index) => {
      const path = this.path(values, top || 1);
      this.lines[index].setAttribute("d", path.line);
      if (index === 0) this.area.setAttribute("d", path.area);
    });
  }

  path(values, top) {
    const step = WIDTH / (POINTS - 1);
    const first = POINTS - values.length;
    let line = "";
    let area = "";
    let begun = -1;
    const shut = (index) => {
      if (begun >= 0) area += `L${((first + index - 1) * step).toFixed(1)} ${this.height}L${(begun * step).toFixed(1)} ${this.height}Z`;
      begun = -1;
    };
    values.forEach((value, index) => {
      if (value === null || value === undefined) {
        shut(index);
        return;
      }
      const x = ((first + index) * step).toFixed(1);
      const y = (this.height - 1 - (value / top) * (this.height - 3)).toFixed(1);
      const verb = begun < 0 ? "M" : "L";
      line += `${verb}${x} ${y}`;
      area += `${verb}${x} ${y}`;
      if (begun < 0) begun = first + index;
    });
    shut(values.length);
    return { line, area };
  }
}
