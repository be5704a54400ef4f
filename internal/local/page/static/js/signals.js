// The list of signals: latest values with their course, search, and charts of those that somebody chooses.

import { chart, haveCharts, spark } from "./chart.js";
import { el, setAttribute, setText } from "./dom.js";
import { ago, plural, value } from "./format.js";

const few = matchMedia("(max-width: 820px)").matches; // what comes behind the list is to be reached on a phone, too
const rowsAtOnce = few ? 12 : 200;
const mostPoints = 60;

// broken lets a line of a name end behind a dot.
const broken = (name) => name.split(/(?<=\.)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part]));

export function signalsView() {
  const search = document.getElementById("search"), found = document.getElementById("found");
  const list = document.getElementById("list"), charts = document.getElementById("charts"), more = document.getElementById("more");
  let shown = rowsAtOnce;
  let signals = [], byID = new Map(), rows = [], now = 0, period = 1;
  const chosen = new Map(); // name → chart

  const text = (s) => (s.at_ms === 0 ? "not seen yet" : s.text || value(s.value));
  const matches = (s, words) => words.every((w) => `${s.name} ${s.unit} ${s.source}`.toLowerCase().includes(w));

  function row(s) {
    const line = spark(), toggle = el("button", { type: "button", class: "pick", "aria-pressed": chosen.has(s.name) ? "true" : "false",
      title: s.comment || "Show its course", onclick: () => choose(s.name) }, broken(s.name));
    const number = el("td", { class: "number value" }), rate = el("td", { class: "number rate" }), age = el("td", { class: "number age" });
    const node = el("tr", { "data-signal": s.name }, el("td", { class: "name" }, toggle), number, el("td", { class: "unit" }, s.unit),
      el("td", { class: "line" }, line.node), rate, age);
    const update = () => {
      const current = byID.get(s.id);
      setText(number, text(current));
      number.classList.toggle("long", number.textContent.length > 14);
      number.classList.toggle("soft", current.at_ms === 0);
      setText(rate, current.at_ms === 0 ? "" : `${current.rate < 10 ? Number(current.rate.toFixed(1)) : Math.round(current.rate)}/s`);
      setText(age, current.at_ms === 0 ? "" : ago(current.at_ms, now));
      line.draw(current.history, mostPoints);
      setAttribute(toggle, "aria-pressed", chosen.has(s.name) ? "true" : "false");
    };
    return { node, update };
  }

  function build() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fit = signals.filter((s) => matches(s, words));
    rows = fit.slice(0, shown).map(row);
    more.hidden = fit.length <= shown;
    setText(found, signals.length === 0 ? "" : fit.length > shown ? `the first ${shown} of ${plural(fit.length, "signal")}`
      : fit.length < signals.length ? `${fit.length} of ${plural(signals.length, "signal")}` : plural(signals.length, "signal"));
    list.replaceChildren(fit.length === 0 ? el("p", { class: "hint" }, signals.length ? "No signal has such a name." : "No signals are collected.")
      : el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Signals" }, el("table", { class: "signals" },
        el("thead", {}, el("tr", {}, [["Signal", ""], ["Value", "number"], ["Unit", "unit"], ["Last minute", "line"], ["Samples", "number rate"], ["Seen", "number age"]]
          .map(([title, kind]) => el("th", { scope: "col", class: kind }, title)))),
        el("tbody", {}, rows.map((r) => r.node)))));
    for (const r of rows) r.update();
  }

  function choose(name) {
    if (chosen.has(name)) { chosen.get(name).stop(); chosen.delete(name); } else if (haveCharts()) show(name);
    else charts.replaceChildren(el("p", { class: "hint" }, "This agent was built without charts: `make assets`, then `make build`, brings them."));
    for (const r of rows) r.update();
  }

  function show(name) {
    const s = signals.find((one) => one.name === name);
    if (!s) return;
    const current = el("b", { class: "value" });
    const plotNode = el("div", { class: "plot" });
    const node = el("div", { class: "chart", "data-chart": name }, el("h3", {}, el("span", {}, broken(name)), " ", current,
      el("button", { type: "button", class: "close", "aria-label": `Close the chart of ${name}`, onclick: () => choose(name) }, "×")), plotNode);
    charts.append(node);
    const plot = chart(plotNode, s.unit, period);
    const draw = () => {
      const one = signals.find((other) => other.name === name);
      if (!one) return;
      setText(current, `${text(one)} ${one.unit}`);
      plot.set(one.history);
    };
    draw();
    chosen.set(name, { draw, stop: () => { plot.stop(); node.remove(); } });
  }

  let timer;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => { shown = rowsAtOnce; build(); }, 120); });
  more.addEventListener("click", () => { shown += few ? 40 : rowsAtOnce; build(); });
  document.addEventListener("waybill-theme", () => {
    const names = [...chosen.keys()];
    for (const name of names) { chosen.get(name).stop(); chosen.delete(name); show(name); }
  });

  return {
    // all takes a whole document: at the beginning, and after each time that the connection was lost.
    all(document_) {
      const same = document_.signals.length === signals.length && document_.signals.every((s, i) => s.name === signals[i].name && s.id === signals[i].id);
      signals = document_.signals;
      period = document_.period_s;
      now = document_.boot_ms;
      byID = new Map(signals.map((s) => [s.id, s]));
      if (!same) build();
      this.draw();
    },
    // values takes what changed in a second.
    values(document_) {
      now = document_.boot_ms;
      for (const v of document_.values) Object.assign(byID.get(v.id) ?? {}, v);
      for (const s of signals) {
        if (s.at_ms === 0) continue;
        s.history.push(s.value);
        if (s.history.length > mostPoints) s.history.shift();
      }
      this.draw();
    },
    draw() {
      for (const r of rows) r.update();
      for (const c of chosen.values()) c.draw();
    },
    // rate is that of all signals together, samples/s.
    rate: () => signals.reduce((sum, s) => sum + s.rate, 0),
  };
}
