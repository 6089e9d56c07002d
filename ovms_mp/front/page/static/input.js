// SPDX-License-Identifier: Apache-2.0
// One input of the form: made up, typed as JSON, or an image.

import { h, say } from "./dom.js";
import { shape as shapeText } from "./format.js";
import { decoded, imageAxes, pixelsOf, valuesOf } from "./image.js";
import { encode, flatten, isWhole, madeUpOctets, nest, parseExactly, sizeOf } from "./tensors.js";

const SIDE = 224; // Of an image whose size the model leaves open.
const MOST_TYPED = 256; // Values that are put into the text field.
const MOST_VALUES = 64 << 20;
const SCALES = { "0 … 255": [0, 255], "0 … 1": [0, 1], "−1 … 1": [-1, 1] };
let lastId = 0;

/** Sizes to begin with: the least that the model takes, but one where that is none. */
export function usualShape(input) {
  const axes = imageAxes(input);
  return input.bounds.map(([low, high], axis) => {
    if (low === high) return low;
    const wish = axes && (axis === axes.height || axis === axes.width) ? SIDE : 1;
    return Math.max(low, high === -1 ? wish : Math.min(wish, high));
  });
}

/** Values to begin with, as JSON has them. */
export function plainValues(dtype, shape) {
  return nest(Array(sizeOf(shape)).fill(dtype === "BYTES" ? "text" : dtype === "BOOL" ? false : 0), shape);
}

function labelled(text, control) {
  control.id = `field-${(lastId += 1)}`;
  return h("div", { class: "field" }, h("label", { for: control.id }, text), control);
}

function select(options) {
  return h("select", {}, options.map((option) => h("option", { value: option }, option)));
}

export class InputField {
  constructor(input) {
    this.input = input;
    this.axes = input.dtype === "BYTES" ? null : imageAxes(input);
    this.pixels = null;
    this.file = null;
    const start = usualShape(input);
    const ways = ["random", "zeros", "ones"].filter(() => input.dtype !== "BYTES");
    this.way = select([...ways, "JSON", ...(this.axes ? ["image"] : [])]);
    this.way.addEventListener("change", () => this.turn());
    this.shape = h("input", { type: "text", value: start.join(", "), inputmode: "numeric", spellcheck: "false", autocomplete: "off" });
    this.shape.addEventListener("change", () => this.redraw());
    this.text = h("textarea", { rows: "4", spellcheck: "false", autocomplete: "off" });
    this.shapeField = labelled("Shape", this.shape);
    this.textField = labelled("Values, as nested lists of JSON", this.text);
    this.imageField = this.axes ? this.makeImageField() : h("div");
    const sized = sizeOf(start) <= MOST_TYPED;
    this.text.value = sized ? JSON.stringify(plainValues(input.dtype, start)) : "";
    this.element = h(
      "fieldset",
      {},
      h("legend", {}, h("bdi", { class: "code" }, input.name), " ", h("span", { class: "quiet" }, `${input.dtype} ${shapeText(input.bounds)}`)),
      h("div", { class: "fields" }, labelled("Values", this.way), this.shapeField),
      this.textField,
      this.imageField,
    );
    if (this.axes) this.takeDrops();
    this.turn();
  }

  makeImageField() {
    this.canvas = h("canvas", { width: "1", height: "1", class: "preview", role: "img", "aria-label": "The image as the model gets it" });
    this.told = h("span", {}, "Drop an image here, or choose one");
    const chooser = h("input", { type: "file", accept: "image/*" });
    chooser.addEventListener("change", () => chooser.files.length && this.take(chooser.files[0]));
    const drop = h("label", { class: "drop" }, this.told, chooser);
    this.scale = select(Object.keys(SCALES));
    this.colours = select(["RGB", "BGR"]);
    this.inverted = h("input", { type: "checkbox" });
    return h(
      "div",
      { class: "image" },
      h("div", { class: "dropped" }, drop, this.canvas),
      h("div", { class: "fields" }, labelled("Range", this.scale), labelled("Colours", this.colours), labelled("Invert", this.inverted)),
    );
  }

  /** Take an image that is dropped anywhere on the input, whatever its values are to be so far. */
  takeDrops() {
    this.element.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.element.classList.add("over");
    });
    this.element.addEventListener("dragleave", () => this.element.classList.remove("over"));
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.element.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) {
        this.way.value = "image";
        this.turn();
        this.take(file);
      }
    });
  }

  turn() {
    const way = this.way.value;
    this.textField.hidden = way !== "JSON";
    this.imageField.hidden = way !== "image";
    this.shapeField.hidden = way === "JSON";
  }

  async take(file) {
    this.file = file;
    await this.redraw();
  }

  /** Draw the image in the size that is asked for; one that was chosen meanwhile is drawn instead. */
  async redraw() {
    const { file } = this;
    this.pixels = null;
    if (file === null) return;
    let told = file.name;
    try {
      const shape = this.readShape();
      const bitmap = await decoded(file);
      if (this.file !== file) return;
      this.pixels = pixelsOf(bitmap, shape[this.axes.width], shape[this.axes.height], this.canvas);
    } catch (error) {
      if (this.file !== file) return;
      told = `${file.name}: ${error.message}`;
    }
    say(this.told, told);
  }

  readShape() {
    const shape = this.shape.value.split(",").filter((size) => size.trim()).map(Number);
    if (shape.length !== this.input.bounds.length || shape.some((size) => !Number.isInteger(size) || size < 0)) {
      throw new Error(`${this.input.name}: the shape is ${this.input.bounds.length} whole numbers, separated by commas`);
    }
    if (sizeOf(shape) > MOST_VALUES) throw new Error(`${this.input.name}: more values than a page should make up`);
    return shape;
  }

  /** The tensor as the form has it; raises with what is wrong. */
  tensor() {
    const { name, dtype } = this.input;
    const way = this.way.value;
    const shape = way === "JSON" ? [] : this.readShape();
    if (way !== "JSON" && way !== "image") return { name, dtype, shape, octets: madeUpOctets(dtype, sizeOf(shape), way) };
    try {
      const given = way === "JSON" ? this.typed() : { shape, values: this.imageValues(shape) };
      return { name, dtype, shape: given.shape, octets: encode(dtype, given.values) };
    } catch (error) {
      throw new Error(`${name}: ${error.message}`);
    }
  }

  typed() {
    const { dtype } = this.input;
    const { shape, values } = flatten(parseExactly(this.text.value));
    const isOff = dtype === "BYTES" ? (value) => typeof value !== "string" : (value) => !["number", "bigint", "boolean"].includes(typeof value);
    if (values.some(isOff)) throw new Error(dtype === "BYTES" ? "its values are texts" : "its values are numbers");
    return { shape, values };
  }

  imageValues(shape) {
    const { dtype } = this.input;
    if (this.pixels === null) throw new Error(this.file === null ? "choose an image first" : "there is no image to send yet");
    const options = { scale: SCALES[this.scale.value], isBgr: this.colours.value === "BGR", isInverted: this.inverted.checked };
    const one = valuesOf(this.pixels, shape, this.axes, options);
    if (sizeOf(shape) !== one.length) throw new Error("an image is a batch of one");
    return isWhole(dtype) ? Array.from(one, Math.round) : one;
  }
}
