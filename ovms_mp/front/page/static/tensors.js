// SPDX-License-Identifier: Apache-2.0
// Tensors as KServe's binary extension carries them, and their values for people.
// https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_data.md

const PLAIN = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP32: Float32Array,
  FP64: Float64Array,
};
const WHOLE = new Set(["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]);

/** Whether a tensor's values can be made and read here. */
export function isKnown(dtype) {
  return dtype in PLAIN || dtype === "BYTES" || dtype === "FP16" || dtype === "BF16";
}

/** Whether it has whole numbers. */
export function isWhole(dtype) {
  return WHOLE.has(dtype);
}

/** How many elements a shape has. */
export function sizeOf(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

/** The octets of values: numbers, or for BYTES texts. */
export function encode(dtype, values) {
  if (dtype === "BYTES") return encodeTexts(values);
  if (dtype === "FP16") return octets(Uint16Array.from(values, halfOf));
  if (dtype === "BF16") return octets(Uint16Array.from(values, (value) => bitsOf(value) >>> 16));
  if (dtype === "UINT64" || dtype === "INT64") return octets(PLAIN[dtype].from(values, (value) => BigInt(Math.trunc(Number(value)))));
  return octets(PLAIN[dtype].from(values, Number));
}

/** The first `most` values in octets: numbers, texts or, where a number has more than 53 bits, its digits. */
export function decode(dtype, bytes, most) {
  if (dtype === "BYTES") return decodeTexts(bytes, most);
  const kind = dtype === "FP16" || dtype === "BF16" ? Uint16Array : PLAIN[dtype];
  const count = Math.min(most, Math.floor(bytes.byteLength / kind.BYTES_PER_ELEMENT));
  const raw = new kind(bytes.slice(0, count * kind.BYTES_PER_ELEMENT).buffer);
  if (dtype === "FP16") return Array.from(raw, numberOfHalf);
  if (dtype === "BF16") return Array.from(raw, (bits) => numberOf(bits << 16));
  if (dtype === "BOOL") return Array.from(raw, Boolean);
  return Array.from(raw, (value) => (typeof value === "bigint" ? exact(value) : value));
}

function exact(value) {
  const near = Number(value);
  return Number.isSafeInteger(near) ? near : String(value);
}

function octets(array) {
  return new Uint8Array(array.buffer);
}

function encodeTexts(texts) {
  const encoder = new TextEncoder();
  const pieces = texts.map((text) => encoder.encode(String(text)));
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + 4 + piece.length, 0));
  const view = new DataView(bytes.buffer);
  let place = 0;
  for (const piece of pieces) {
    view.setUint32(place, piece.length, true);
    bytes.set(piece, place + 4);
    place += 4 + piece.length;
  }
  return bytes;
}

function decodeTexts(bytes, most) {
  const decoder = new TextDecoder();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const texts = [];
  for (let place = 0; place + 4 <= bytes.length && texts.length < most; ) {
    const end = place + 4 + view.getUint32(place, true);
    texts.push(decoder.decode(bytes.subarray(place + 4, end)));
    place = end;
  }
  return texts;
}

const scratch = new DataView(new ArrayBuffer(4));

function bitsOf(value) {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

function numberOf(bits) {
  scratch.setUint32(0, bits >>> 0);
  return scratch.getFloat32(0);
}

function halfOf(value) {
  const bits = bitsOf(value);
  const sign = (bits >>> 16) & 0x8000;
  const power = ((bits >>> 23) & 0xff) - 112;
  if (power >= 31) return sign | (Number.isNaN(value) ? 0x7e00 : 0x7c00);
  if (power <= 0) return sign | Math.round(Math.abs(value) * 2 ** 24);
  return sign | Math.min(0x7c00, ((power << 23) + (bits & 0x7fffff) + 0x1000) >>> 13);
}

function numberOfHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const power = (bits >>> 10) & 31;
  const part = bits & 0x3ff;
  if (power === 31) return part ? NaN : sign * Infinity;
  return power ? sign * 2 ** (power - 15) * (1 + part / 1024) : sign * 2 ** -24 * part;
}

/** A nested list of JSON as its shape and values; raises where its rows differ in length. */
export function flatten(nested) {
  const shape = [];
  for (let level = nested; Array.isArray(level); level = level[0]) shape.push(level.length);
  const values = Array.isArray(nested) ? nested.flat(Infinity) : [nested];
  if (!fits(nested, shape, 0)) throw new Error("its lists are not all of one length");
  return { shape, values };
}

function fits(level, shape, depth) {
  if (depth === shape.length) return !Array.isArray(level);
  return Array.isArray(level) && level.length === shape[depth] && level.every((each) => fits(each, shape, depth + 1));
}

/** Values of this shape as nested lists. */
export function nest(values, shape) {
  let level = values;
  for (const size of shape.slice(1).reverse()) {
    const rows = [];
    for (let first = 0; first < level.length; first += size) rows.push(level.slice(first, first + size));
    level = rows;
  }
  return shape.length ? level : values[0];
}
