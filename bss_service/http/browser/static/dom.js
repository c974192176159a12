// Elements and numbers. Texts only ever become text nodes and attribute values: nothing here parses HTML.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function link(route, text, properties = {}) {
  return el("a", { href: `#${route}`, ...properties }, text);
}

export function route(...parts) {
  return `/${parts.map(encodeURIComponent).join("/")}`;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const NONE = "–";
export const count = (value) => (value === null || value === undefined ? NONE : whole.format(value));
export const number = (value) => (value === null || value === undefined ? NONE : significant.format(value));
export const percent = (value) =>
  value === null || value === undefined ? NONE : `${(100 * value).toFixed(Math.abs(value) < 0.1 ? 2 : 1)} %`;
export const signed = (value) =>
  value === null || value === undefined ? NONE : `${value < 0 ? "−" : "+"}${number(Math.abs(value))}`;

export const points = (value) =>
  value === null || value === undefined ? NONE : `${value < 0 ? "−" : "+"}${(100 * Math.abs(value)).toFixed(2)}`;

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function ago(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

export function facts(rows) {
  return el(
    "dl",
    { class: "facts" },
    rows.filter(Boolean).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

// columns: [heading, cell of a row, is a number]; a narrow screen scrolls the table, and so do the arrow keys.
export function table(caption, columns, rows, empty) {
  if (!rows.length) return el("p", { class: "empty" }, empty);
  const head = el("tr", {}, columns.map(([name, , right]) => el("th", { scope: "col", class: right && "right" }, name)));
  const body = rows.map((row) =>
    el("tr", {}, columns.map(([, cell, right]) => el("td", { class: right && "right" }, cell(row)))),
  );
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, el("span", {}, caption)), el("thead", {}, head), el("tbody", {}, body)),
  );
}

export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return el("section", { "aria-labelledby": id }, el("h2", { id, tabindex: -1 }, title), children);
}

// Buttons that lead to sections, since what stands behind the # of an address is the view; and links to other views.
export function contents(sections, ...links) {
  const go = (heading) => {
    heading.scrollIntoView();
    heading.focus({ preventScroll: true });
  };
  const headings = sections.map((one) => one.querySelector("h2"));
  return el("nav", { class: "contents", "aria-label": "On this page" }, headings.map((heading) => el("button", { type: "button", onclick: () => go(heading) }, heading.textContent)), links);
}

export function shown(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}
