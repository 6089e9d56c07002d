// SPDX-License-Identifier: Apache-2.0
// The form that tries a version.

import { outputElement, waterfall } from "./answer.js";
import { h, say } from "./dom.js";
import { infer } from "./infer.js";
import { InputField } from "./input.js";
import { isKnown } from "./tensors.js";

export class TryIt {
  constructor(model) {
    this.model = model;
    this.fields = [];
    this.inputs = h("div", { class: "inputs" });
    this.run = h("button", { type: "submit", class: "main" }, "Run");
    this.refusal = h("p", { class: "refusal", role: "alert" });
    this.answer = h("div", { class: "answer", "aria-live": "polite" });
    this.form = h("form", { onsubmit: (event) => this.submit(event) }, this.inputs, h("div", { class: "buttons" }, this.run), this.refusal);
    this.element = h("section", { "aria-labelledby": "try-title" }, h("div", { class: "heading" }, h("h2", { id: "try-title" }, "Try it")), this.form, this.answer);
  }

  show(version) {
    this.version = version;
    const unknown = version.inputs.filter((input) => !isKnown(input.dtype));
    const cannot = unknown.length
      ? `This page cannot make values of ${unknown[0].dtype}.`
      : version.hidden_inputs
        ? `This model takes ${version.hidden_inputs} inputs more than a page shows.`
        : "";
    this.fields = cannot ? [] : version.inputs.map((input) => new InputField(input));
    this.inputs.replaceChildren(...this.fields.map((field) => field.element));
    this.answer.replaceChildren();
    this.run.disabled = Boolean(cannot);
    say(this.refusal, cannot);
  }

  async submit(event) {
    event.preventDefault();
    const { version } = this;
    say(this.refusal, "");
    this.run.disabled = true;
    try {
      const inputs = this.fields.map((field) => field.tensor());
      const { outputs, stages, totalMs } = await infer(this.model, version.version, inputs);
      if (this.version !== version) return; // The form is another version's by now.
      this.answer.replaceChildren(h("h3", {}, "Answer"), waterfall(stages, totalMs), ...outputs.map(outputElement));
    } catch (error) {
      if (this.version !== version) return;
      this.answer.replaceChildren();
      say(this.refusal, error.message);
    }
    this.run.disabled = false;
  }
}
