// The fleet: totals, map and list, kept up to date by the live stream.

import { all, get } from "./api.js";
import { el, replace, delayed } from "./dom.js";
import * as fmt from "./format.js";
import { makeMap, fleetLayer } from "./map.js";

const shown = 500; // rows of the list; the search finds the others

export async function fleetView(main, settings, signal) {
  const totals = el("ul", { class: "cards", "aria-label": "Totals" });
  const mapNode = el("div", { class: "map" });
  const search = el("input", { type: "search", placeholder: "Search vehicles", "aria-label": "Search vehicles", value: "" });
  const filter = el("select", { "aria-label": "Which vehicles" },
    [["", "all"], ["online", "online"], ["offline", "offline"], ["trouble", "with gaps, losses or alarms"]].map(([v, text]) => el("option", { value: v }, text)));
  const list = el("ul", { class: "list" });
  const number = el("p", { class: "hint", role: "status" });
  replace(main, el("h1", { class: "skip" }, "Fleet"), totals, el("div", { class: "columns" },
    el("section", { class: "card", "aria-label": "Map" }, mapNode),
    el("section", { class: "card", "aria-label": "Vehicles" }, el("div", { class: "bar" }, search, filter), number, list)));
  const map = makeMap(mapNode, settings, "Map of the vehicles; the list beside it has the same vehicles");
  signal.addEventListener("abort", () => map.remove());
  const dots = fleetLayer(map, (d) => { location.hash = `#/v/${encodeURIComponent(d.tenant)}/${encodeURIComponent(d.device)}`; });

  const devices = new Map();
  let rate = null, before = null;

  const card = (n, text, kind) => el("li", { class: "card" }, el("b", { class: kind }, n), el("span", {}, text));
  const drawTotals = (c) => replace(totals,
    card(`${fmt.count(c.online)} / ${fmt.count(c.devices)}`, "vehicles online", c.online ? "good" : ""),
    card(rate === null ? "–" : fmt.count(Math.round(rate)), "samples a second"),
    card(fmt.count(c.samples), "samples stored"),
    card(fmt.count(c.gaps), "batches missing", c.gaps ? "bad" : ""),
    card(fmt.count(c.losses), "entries in loss ledgers", c.losses ? "warn" : ""),
    card(fmt.count(c.parked), "batches parked", c.parked ? "warn" : ""),
    card(fmt.count(c.dead_letters), "dead letters", c.dead_letters ? "warn" : ""));

  const fits = (d) => {
    if (!d.device.toLowerCase().includes(search.value.trim().toLowerCase())) return false;
    return filter.value === "" || (filter.value === "trouble" ? fmt.trouble(d) !== "" : d.state === filter.value);
  };
  const draw = () => {
    if (signal.aborted) return;
    const rows = [...devices.values()].filter(fits);
    const tenants = new Set([...devices.values()].map((d) => d.tenant)).size > 1;
    number.textContent = `${fmt.plural(rows.length, "vehicle")}${rows.length > shown ? `, the first ${shown} are listed` : ""}`;
    const focus = document.activeElement?.getAttribute("href");
    replace(list, rows.slice(0, shown).map((d) => row(d, tenants)));
    if (focus) for (const a of list.querySelectorAll("a.row")) if (a.getAttribute("href") === focus) a.focus();
    dots.keep(new Set(rows.map((d) => `${d.tenant}/${d.device}`)));
    for (const d of rows) dots.put(d, fmt.trouble(d));
  };
  const take = (list) => { for (const d of list) devices.set(`${d.tenant}/${d.device}`, d); };
  const load = async () => {
    take(await all("/devices", {}, 10000, signal));
    draw();
    dots.fit();
  };
  search.addEventListener("input", delayed(draw, 120));
  filter.addEventListener("change", () => { draw(); dots.fit(true); });
  const soon = delayed(() => load().catch(() => {}), 1500);

  drawTotals(await get("/counts", {}, signal));
  await load();
  const tick = setInterval(draw, 15000); // "3 min ago" goes on
  signal.addEventListener("abort", () => clearInterval(tick));

  return (update) => { // from the live stream
    const at = Date.parse(update.now);
    if (before && at > before.at) {
      const one = (update.counts.samples - before.samples) / ((at - before.at) / 1000);
      rate = rate === null ? one : 0.6 * rate + 0.4 * one;
    }
    before = { at, samples: update.counts.samples };
    drawTotals(update.counts);
    if (update.more) soon();
    if (update.devices.length) { take(update.devices); draw(); }
  };
}

function row(d, tenants) {
  const trouble = fmt.trouble(d);
  return el("li", {}, el("a", { class: "row", href: `#/v/${encodeURIComponent(d.tenant)}/${encodeURIComponent(d.device)}` },
    el("b", {}, d.device, tenants ? el("span", { class: "soft" }, ` ${d.tenant}`) : ""),
    el("span", { class: `state ${d.state} right` }, d.state),
    el("span", { class: d.gaps || d.alarms ? "bad" : trouble ? "warn" : "soft" }, trouble || "all accounted for"),
    el("span", { class: "soft right" }, d.queue?.batches > 1 ? `${fmt.count(d.queue.batches)} queued · ` : "", fmt.ago(d.last_seen))));
}
