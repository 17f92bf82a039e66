// Elements and numbers. Texts of a dataset are hostile: `fill` adds all of them to the page, as text only, and makes
// control characters, bidi overrides and invisible characters visible.

const THIN = "\u202f";
const MINUS = "\u2212";

// Joiners stay: scripts and emoji need them.
const CONTROLS = "\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f";
const STEERING = "\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u206f";
const INVISIBLE = "\\xad\\u180e\\u200b\\u2060-\\u2065\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}";
const UNSEEN = new RegExp(`[${CONTROLS}${STEERING}${INVISIBLE}]`, "gu");

/** Return text with every control and invisible character replaced by its Unicode number. */
function visible(text) {
  const number = (character) => character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return text.replaceAll("\r\n", "\n").replace(UNSEEN, (character) => `\u27e8U+${number(character)}\u27e9`);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "css") for (const [key, setting] of Object.entries(value)) node.style.setProperty(key, setting);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, visible(String(value)));
  }
  for (const child of children.flat(2)) {
    if (child instanceof Node) node.append(child);
    else if (child !== null && child !== undefined && child !== false) node.append(visible(String(child)));
  }
  return node;
}

/** Return an HTML element. Attributes `on...` are listeners, `css` holds style properties; children may be texts. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function short(text, length) {
  const characters = Array.from(text.slice(0, 4 * length));
  return characters.length > length
    ? characters
        .slice(0, length - 1)
        .join("")
        .trimEnd() + "\u2026"
    : text;
}

// Numbers.

function grouped(digits) {
  return digits.replace(/\B(?=(\d{3})+(?!\d))/g, THIN);
}

function count(number) {
  return grouped(String(Math.round(number)));
}

function decimal(number, places = 2) {
  const [whole, part] = Math.abs(number).toFixed(places).split(".");
  const sign = number < 0 && Number(number.toFixed(places)) !== 0 ? MINUS : "";
  return sign + grouped(whole) + (part ? "." + part : "");
}

function signed(number) {
  const text = decimal(number);
  return number > 0 && Number(number.toFixed(2)) !== 0 ? "+" + text : text;
}

/** Return a share in percent. Only 0 and 1 are shown as 0 and 100 %. */
function percent(share) {
  if (share === 0 || share === 1) return `${100 * share}${THIN}%`;
  if (share < 0.001) return `<0.1${THIN}%`;
  return share > 0.999 ? `>99.9${THIN}%` : `${(100 * share).toFixed(1)}${THIN}%`;
}

function portion(part, whole) {
  return whole ? percent(part / whole) : "\u2013";
}

function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (seconds < 120) return `${Number(seconds.toFixed(seconds < 10 ? 1 : 0))}${THIN}s`;
  if (minutes < 120) return `${minutes}${THIN}min`;
  const hours = Math.floor(minutes / 60);
  return `${count(hours)}${THIN}h` + (minutes % 60 ? ` ${minutes % 60}${THIN}min` : "");
}

/** Return a number that is short enough for an axis. */
function compact(number) {
  for (const [size, unit] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (number >= size) return `${Number((number / size).toPrecision(3))}${THIN}${unit}`;
  }
  return String(Number(number.toPrecision(3)));
}

function many(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

function moment(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? text : time.toISOString().slice(0, 16).replace("T", " ") + " UTC";
}

function words(text) {
  return text.split(/\s+/).filter(Boolean).length;
}

function total(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0);
}

/** Return about `wanted` round numbers from 0 to `most`. */
function ticks(most, wanted) {
  const power = 10 ** Math.floor(Math.log10(most / wanted));
  return stepped(
    most,
    wanted,
    [1, 2, 5, 10].map((factor) => factor * power),
  );
}

/** Return ticks of seconds at round minutes, hours and days. */
function timeTicks(most, wanted) {
  const sizes = [
    [1, [1, 2, 5, 10, 15, 30]],
    [60, [1, 2, 5, 10, 15, 30]],
    [3600, [1, 2, 3, 6, 12]],
    [86400, [1, 2, 5, 10, 30, 100]],
  ];
  return stepped(
    most,
    wanted,
    sizes.flatMap(([unit, factors]) => factors.map((factor) => unit * factor)),
  );
}

function stepped(most, wanted, steps) {
  const step = steps.find((size) => size >= (most / wanted) * 0.999) ?? steps.at(-1);
  return Array.from({ length: Math.floor((most / step) * 1.0001) + 1 }, (_, k) => k * step);
}
