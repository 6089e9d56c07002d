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
const HALVES = { FP16: 0x3c00, BF16: 0x3f80 }; // Each as its 16 bits, here those of 1.
const WHOLE = Object.fromEntries(
  [8, 16, 32, 64].flatMap((bits) => [
    [`UINT${bits}`, [0n, 2n ** BigInt(bits) - 1n]],
    [`INT${bits}`, [-(2n ** BigInt(bits - 1)), 2n ** BigInt(bits - 1) - 1n]],
  ]),
);
const BEYOND = { FP16: 65520, BF16: 2 ** 128 - 2 ** 119, FP32: 2 ** 128 - 2 ** 103 }; // From there on the nearest is infinite.
const CHUNK = 1 << 16;
const LONGEST_TEXT = 2000;

/** Whether a tensor's values can be made and read here. */
export function isKnown(dtype) {
  return dtype in PLAIN || dtype in HALVES || dtype === "BYTES";
}

/** Whether it has whole numbers. */
export function isWhole(dtype) {
  return dtype in WHOLE;
}

/** How many elements a shape has. */
export function sizeOf(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

/** The octets of values: numbers, truth values, or for BYTES texts. Raises where one is not of the type. */
export function encode(dtype, values) {
  if (dtype === "BYTES") return encodeTexts(values);
  for (const value of values) check(dtype, value);
  return packed(dtype, values);
}

function packed(dtype, values) {
  if (dtype === "FP16") return octets(Uint16Array.from(values, (value) => halfOf(Number(value))));
  if (dtype === "BF16") return octets(Uint16Array.from(values, (value) => brainOf(Number(value))));
  return octets(PLAIN[dtype].from(values, dtype.endsWith("INT64") ? BigInt : Number));
}

function check(dtype, value) {
  const number = Number(value);
  if (dtype === "BOOL") {
    if (number !== 0 && number !== 1) throw new Error(`${value} is no truth value; BOOL has true and false`);
  } else if (dtype in WHOLE) {
    if (!Number.isInteger(number)) throw new Error(`${value} is no whole number, and ${dtype} has nothing else`);
    if (typeof value === "number" && !Number.isSafeInteger(value)) throw new Error(`this browser does not read ${value} to its last digit`);
    const [low, high] = WHOLE[dtype];
    if (value < low || value > high) throw new Error(`${value} does not fit ${dtype}`);
  } else if (!(Math.abs(number) < (BEYOND[dtype] ?? Infinity))) throw new Error(`${value} does not fit ${dtype}`);
}

/** The octets of made-up values of this many elements: `zeros`, `ones` or `random`, from 0 to 1 or to 9. Not for BYTES. */
export function madeUpOctets(dtype, length, kind) {
  const Kind = PLAIN[dtype] ?? Uint16Array;
  const values = new Kind(length);
  if (kind === "ones") values.fill(HALVES[dtype] ?? (dtype.endsWith("INT64") ? 1n : 1));
  if (kind === "random") {
    // The same ones again and again: no model minds, and many take a while.
    const some = new Kind(packed(dtype, randomValues(dtype, Math.min(length, CHUNK))).buffer);
    for (let place = 0; place < length; place += some.length) values.set(some.subarray(0, length - place), place);
  }
  return octets(values);
}

function randomValues(dtype, length) {
  const range = dtype === "BOOL" ? 2 : isWhole(dtype) ? 10 : 0;
  return Array.from({ length }, () => (range ? Math.floor(range * Math.random()) : Math.random()));
}

/** JSON whose whole numbers keep all their digits; longer ones than a number holds are BigInts where the browser can. */
export function parseExactly(text) {
  return JSON.parse(text, (_, value, context) => {
    const digits = typeof value === "number" && !Number.isSafeInteger(value) ? context?.source : undefined;
    return digits !== undefined && /^-?\d+$/.test(digits) ? BigInt(digits) : value;
  });
}

/** The first `most` values in octets: numbers, truth values, BigInts or the beginnings of texts. */
export function decode(dtype, bytes, most) {
  if (dtype === "BYTES") return decodeTexts(bytes, most);
  const kind = PLAIN[dtype] ?? Uint16Array;
  const count = Math.min(most, Math.floor(bytes.byteLength / kind.BYTES_PER_ELEMENT));
  const raw = new kind(bytes.slice(0, count * kind.BYTES_PER_ELEMENT).buffer);
  if (dtype === "FP16") return Array.from(raw, numberOfHalf);
  if (dtype === "BF16") return Array.from(raw, (bits) => numberOf(bits << 16));
  if (dtype === "BOOL") return Array.from(raw, Boolean);
  return Array.from(raw);
}

const DIGITS = { FP16: 4, BF16: 3, FP32: 7 };

/** A value of a tensor for people. */
export function valueText(dtype, value) {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value !== "number" || Number.isInteger(value) || !Number.isFinite(value)) return String(value);
  return String(Number(value.toPrecision(DIGITS[dtype] ?? 17)));
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
    const cut = Math.min(end, place + 4 + LONGEST_TEXT);
    texts.push(decoder.decode(bytes.subarray(place + 4, cut)) + (cut < end ? "…" : ""));
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

function brainOf(value) {
  const bits = bitsOf(value);
  return Number.isNaN(value) ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
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
