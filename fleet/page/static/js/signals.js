// The signals of a vehicle: a list to search and choose from, with a small line each, and charts of those chosen.

import { all, get } from "./api.js";
import { el, replace, delayed } from "./dom.js";
import * as fmt from "./format.js";
import { chart, spark } from "./charts.js";

const most = 6; // charts at once
const usual = [/VehicleSpeed$|Vehicle\.Speed$/, /StateOfCharge|FuelLevel/, /\.fix\.speed$/];

// signalsPart fills two nodes. range gives the time shown, onZoom takes another; draw is to be called when the time changed.
export function signalsPart(listNode, chartsNode, path, signal, range, onZoom) {
  const search = el("input", { type: "search", placeholder: "Search signals", "aria-label": "Search signals" });
  const rows = el("tbody");
  const hint = el("p", { class: "hint", role: "status" });
  replace(listNode, el("h2", {}, "Signals"), search, hint,
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "List of signals" },
      el("table", {}, el("thead", {}, el("tr", {}, ["Chart", "Signal", "Last", "Course"].map((t) => el("th", { scope: "col" }, t)))), rows)));
  const chosen = new Set();
  let signals = [], close = [], first = true;

  // A line is asked for once its row is seen.
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) {
      if (!e.isIntersecting) continue;
      seen.unobserve(e.target);
      get(`${path}/series`, { signal: e.target.dataset.signal, ...range(), points: 46 }, signal).then((s) => replace(e.target, spark(s))).catch(() => {});
    }
  });
  const drawList = () => {
    const words = search.value.trim().toLowerCase();
    const fit = signals.filter((s) => s.name.toLowerCase().includes(words));
    hint.textContent = `${fmt.count(fit.length)} of ${fmt.plural(signals.length, "signal")}; choose up to ${most} for charts`;
    seen.disconnect();
    replace(rows, fit.slice(0, 300).map((s) => {
      const last = s.last ? `${s.last.label ?? fmt.value(s.last.value)} ${s.unit}` : "–";
      const course = el("td", { "data-signal": s.name });
      if (s.last && typeof s.last.value === "number") seen.observe(course);
      return el("tr", {},
        el("td", {}, el("input", { type: "checkbox", "aria-label": `Chart of ${s.name}`, checked: chosen.has(s.name), onchange: (e) => pick(s.name, e.target) })),
        el("td", { class: "name" }, s.name),
        el("td", { title: s.last ? fmt.clock(s.last.time) : "nothing dated came" }, last), course);
    }));
  };
  const pick = (name, box) => {
    if (box.checked && chosen.size >= most) { box.checked = false; return; }
    if (box.checked) chosen.add(name); else chosen.delete(name);
    drawCharts().catch(() => {});
  };
  const drawCharts = async () => {
    const wanted = signals.filter((s) => chosen.has(s.name));
    const { from, to } = range();
    const list = await Promise.all(wanted.map((s) => get(`${path}/series`, { signal: s.name, from, to, points: 600 }, signal)));
    for (const f of close) f();
    const nodes = wanted.map((s) => el("div", { class: "chart" }, el("h3", {}, s.name, el("span", { class: "soft" }, ` ${s.unit}`))));
    replace(chartsNode, el("h2", {}, "Charts"), wanted.length ? el("p", { class: "hint" }, "Drag over a stretch to see it closer.") : el("p", { class: "hint" }, "Choose signals in the list."), nodes);
    close = list.map((s, i) => {
      if (s.t.length === 0) { nodes[i].append(el("p", { class: "hint" }, "No numbers in this time.")); return () => {}; }
      return chart(nodes[i], s, wanted[i].unit, 190, onZoom);
    });
  };
  search.addEventListener("input", delayed(drawList, 120));
  const themed = () => drawCharts().catch(() => {});
  document.addEventListener("waybill-theme", themed);
  signal.addEventListener("abort", () => { seen.disconnect(); document.removeEventListener("waybill-theme", themed); for (const f of close) f(); });

  return {
    async draw() {
      signals = await all(`${path}/signals`, {}, 5000, signal);
      if (first) {
        first = false;
        for (const fit of usual) {
          const s = signals.find((s) => fit.test(s.name) && s.last);
          if (s && chosen.size < 2) chosen.add(s.name);
        }
      }
      drawList();
      await drawCharts();
    },
  };
}
