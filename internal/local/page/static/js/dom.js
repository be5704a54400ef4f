// Elements made of words: text is always text, never markup, so that what a bus says cannot become part of the page.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// setText and setAttribute leave alone what is so already: the browser then has nothing to draw.
export function setText(node, text) { if (node.textContent !== text) node.textContent = text; }
export function setAttribute(node, name, value) { if (node.getAttribute(name) !== value) node.setAttribute(name, value); }

// table makes a table. columns are [title, function of a row, class]; the caption is read out only.
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return el("p", { class: "hint" }, empty);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "skip" }, caption),
      el("thead", {}, el("tr", {}, columns.map(([title, , kind]) => el("th", { scope: "col", class: kind }, title)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, columns.map(([, of, kind]) => el("td", { class: kind }, of(row))))))));
}

// facts makes a list of pairs; a value that is null is left out.
export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
