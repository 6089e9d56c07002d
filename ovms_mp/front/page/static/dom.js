// SPDX-License-Identifier: Apache-2.0
// Elements, made without markup: whatever a text holds, it stays text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `properties`: attributes; `on...` are listeners, `class` and `data-...` as in markup, false is left out. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An element of SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Show a text; nothing is done where it is there already. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove a class. */
export function mark(element, name, isOn) {
  if (element.classList.contains(name) !== isOn) element.classList.toggle(name, isOn);
}

/** A length as a share of its place; styles set by scripts are no inline styles to the policy. */
export function stretch(element, share, property = "width") {
  const text = `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(1)}%`;
  if (element.style.getPropertyValue(property) !== text) element.style.setProperty(property, text);
}

/** Have `parent` hold these elements in this order, and touch none that is in its place. */
export function order(parent, elements) {
  let next = parent.firstChild;
  for (const element of elements) {
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/** Keeps an element for each key: `make(item)` gives `{element, update(item)}`. */
export class Rows {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.known = new Map();
  }

  update(items, keyOf) {
    const rows = new Map();
    for (const item of items) {
      const key = keyOf(item);
      const row = this.known.get(key) ?? this.make(item);
      row.update(item);
      rows.set(key, row);
    }
    this.known = rows;
    order(this.parent, [...rows.values()].map((row) => row.element));
  }
}
