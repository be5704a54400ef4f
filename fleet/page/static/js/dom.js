// Elements made of words: text is always text, never markup, so that what a vehicle says cannot become part of the page.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

export function replace(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// table makes a table with a caption. columns are [title, function of a row, class]; the caption is shown, or
// only read out where a heading says the same.
export function table(caption, columns, rows, empty, shown = true) {
  if (rows.length === 0) return el("p", { class: "hint" }, empty);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: shown ? undefined : "skip" }, caption),
      el("thead", {}, el("tr", {}, columns.map(([title, , kind]) => el("th", { scope: "col", class: kind }, title)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, columns.map(([, of, kind]) => el("td", { class: kind }, of(row))))))));
}

// delayed calls f once nobody has called for a while, ms.
export function delayed(f, wait) {
  let timer;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => f(...args), wait); };
}
