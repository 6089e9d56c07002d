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
    this.fields = unknown.length ? [] : version.inputs.map((input) => new InputField(input));
    this.inputs.replaceChildren(...this.fields.map((field) => field.element));
    this.answer.replaceChildren();
    this.run.disabled = !this.fields.length;
    say(this.refusal, unknown.length ? `This page cannot make values of ${unknown[0].dtype}.` : "");
  }

  async submit(event) {
    event.preventDefault();
    say(this.refusal, "");
    this.run.disabled = true;
    try {
      const inputs = this.fields.map((field) => field.tensor());
      const { outputs, stages, totalMs } = await infer(this.model, this.version.version, inputs);
      this.answer.replaceChildren(h("h3", {}, "Answer"), waterfall(stages, totalMs), ...outputs.map(outputElement));
    } catch (error) {
      this.answer.replaceChildren();
      say(this.refusal, error.message);
    }
    this.run.disabled = false;
  }
}
