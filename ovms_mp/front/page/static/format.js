// SPDX-License-Identifier: Apache-2.0
// Numbers for people. Nothing is shown as "–".

const NOTHING = "–";
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function isMissing(value) {
  return value === null || value === undefined || Number.isNaN(value);
}

/** Three digits or so: 0, 0.42, 12.3, 1,234. */
export function number(value) {
  if (isMissing(value)) return NOTHING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100) return plain.format(value);
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A count. */
export function count(value) {
  return isMissing(value) ? NOTHING : plain.format(value);
}

/** A time of milliseconds, without its unit. */
export function ms(value) {
  return number(value);
}

/** A time of milliseconds, with the unit that suits it. */
export function duration(value) {
  if (isMissing(value)) return NOTHING;
  if (value >= 1000) return `${number(value / 1000)} s`;
  return value < 0.1 && value > 0 ? `${plain.format(value * 1000)} µs` : `${number(value)} ms`;
}

/** A share of one, in hundredths. */
export function percent(value) {
  if (isMissing(value)) return NOTHING;
  const hundredths = 100 * value;
  return `${hundredths > 0 && hundredths < 10 ? hundredths.toFixed(1) : plain.format(hundredths)} %`;
}

/** Octets, with a binary unit. */
export function bytes(value) {
  if (isMissing(value)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${power && value < 10 ? value.toFixed(1) : plain.format(value)} ${units[power]}`;
}

/** How long something has been there. */
export function age(seconds) {
  if (isMissing(seconds)) return NOTHING;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** The time of day of a moment in seconds since the epoch. */
export function clock(atS) {
  return new Date(atS * 1000).toLocaleTimeString("en-GB");
}

/** Sizes of a tensor, each one number or a range: [1, 3, 2..8, any]. */
export function shape(bounds) {
  return `[${bounds.map(([low, high]) => dimension(low, high)).join(", ")}]`;
}

function dimension(low, high) {
  if (low === high) return String(low);
  if (high === -1) return low <= 1 ? "any" : `${low}…`;
  return `${low}…${high}`;
}
