// One vehicle: where it was, what it measured, what happened, and what is missing of it.

import { get, all, devicePath } from "./api.js";
import { el, replace, table, delayed } from "./dom.js";
import * as fmt from "./format.js";
import { makeMap, fleetLayer, drawTrack, fitTrack } from "./map.js";
import { signalsPart } from "./signals.js";

const hours = 3600000;
const spans = [["1 h", 1], ["6 h", 6], ["24 h", 24], ["7 days", 168]];

export async function vehicleView(main, settings, signal, tenant, device) {
  const path = devicePath(tenant, device);
  let detail = await get(path, {}, signal);
  const head = el("div", { class: "bar" });
  const facts = el("div");
  const mapNode = el("div", { class: "map small" });
  const trackWords = el("p", { class: "hint", role: "status" });
  const trips = el("div"), events = el("div"), ledger = el("div");
  const bar = el("div", { class: "bar", role: "group", "aria-label": "Time shown" });
  const signalsNode = el("section", { class: "card", "aria-label": "Signals" });
  const charts = el("section", { class: "card", "aria-label": "Charts" });
  const card = (title, ...body) => el("section", { class: "card" }, el("h2", {}, title), ...body);
  replace(main, head, bar,
    el("div", { class: "columns" }, el("section", { class: "card", "aria-label": "Track" }, mapNode, trackWords),
      el("div", { class: "stack" }, card("Now", facts), card("Missing, lost, waiting", ledger))),
    el("div", { class: "halves" }, signalsNode, charts),
    el("div", { class: "halves" }, card("Trips", trips), card("Events", events)));

  const map = makeMap(mapNode, settings, `Track of ${device}`);
  signal.addEventListener("abort", () => map.remove());
  const dot = fleetLayer(map, () => {});
  let window = { hours: 6, from: 0, to: 0 }; // hours 0: from and to as they are
  let line = null;

  const range = () => (window.hours ? { from: Math.round(fmt.now() - window.hours * hours), to: Math.round(fmt.now()) } : { from: window.from, to: window.to });
  const signals = signalsPart(signalsNode, charts, path, signal, range, (from, to) => choose({ hours: 0, from, to }));

  const drawBar = () => replace(bar,
    spans.map(([text, h]) => el("button", { type: "button", "aria-pressed": String(window.hours === h), onclick: () => choose({ hours: h }) }, text)),
    window.hours === 0 && el("span", { class: "soft" }, `${fmt.clock(window.from)} to ${fmt.clock(window.to)}`));

  const drawTrackOf = async (fit) => {
    const { from, to } = range();
    const earliest = Math.max(from, to - 31 * 24 * hours);
    const track = await get(`${path}/track`, { from: earliest, to, points: 1500 }, signal);
    if (signal.aborted) return;
    line?.remove();
    line = drawTrack(map, track);
    const left = track.excluded.suspect + track.excluded.uncertain;
    trackWords.textContent = track.t.length === 0 ? "No position in this time." :
      `${fmt.plural(track.total, "position")} of ${track.source}, ${fmt.count(track.t.length)} drawn${left ? `; ${fmt.count(left)} left out (suspect, or of uncertain time)` : ""}`;
    if (fit) fitTrack(map, track);
    if (fit && track.t.length === 0) dot.fit(true);
  };
  const drawTrips = async () => {
    const { from, to } = range();
    const t = await get(`${path}/trips`, { from: Math.max(from, to - 7 * 24 * hours), to }, signal);
    const far = (trip) => (trip.distance_m === null ? "–" : `${(trip.distance_m / 1000).toFixed(1)} km`);
    replace(trips, t.by === "none" ? el("p", { class: "hint" }, "There is no signal of speed or ignition to tell trips by.") :
      table(`Told by ${t.by}${t.speed_signal ? ` (${t.speed_signal})` : ""}`, [
        ["Start", (x) => el("button", { type: "button", title: "Show this trip", onclick: () => choose({ hours: 0, from: Date.parse(x.start), to: Date.parse(x.end) }) }, fmt.clock(x.start))],
        ["Length", (x) => `${fmt.duration(Date.parse(x.end) - Date.parse(x.start))}${x.open ? ", to the end shown" : ""}`],
        ["Distance", far, "number"],
        ["Top", (x) => (x.top_speed_mps === null ? "–" : `${Math.round(x.top_speed_mps * 3.6)} km/h`), "number"],
      ], t.items, "No trip in this time."));
  };
  const drawEvents = async () => {
    const { from, to } = range();
    const page = await get(`${path}/events`, { from, to, limit: 200 }, signal);
    replace(events, table(page.next ? "The newest 200" : "The newest first", [
      ["When", (e) => fmt.clock(e.time)],
      ["What", (e) => e.name.replace(/^event\./, "").replaceAll("_", " "), "name"],
      ["Value", (e) => `${e.label ?? fmt.value(e.value)} ${e.unit}`, "number"],
    ], page.items, "No event in this time."));
  };
  const drawLedger = async () => {
    const ask = { tenant, device };
    const [gaps, losses, parked] = await Promise.all([all("/gaps", ask, 500, signal), all("/losses", ask, 500, signal), all("/parked", ask, 500, signal)]);
    const words = [...gaps.map((g) => el("li", { class: "bad" }, fmt.gap(g))),
      ...losses.map((l) => el("li", { class: "warn" }, `Ledger, ${fmt.clock(l.recorded)}: ${fmt.loss(l)}`)),
      ...parked.map((p) => el("li", {}, fmt.parked(p)))];
    replace(ledger, words.length ? el("ul", { class: "words" }, words) : el("p", { class: "good" }, "Every number came or is accounted for; nothing is parked."));
  };
  const drawHead = () => {
    replace(head, el("a", { href: "#/" }, "Fleet"), "›", el("h1", {}, detail.device), el("span", { class: `state ${detail.state}` }, detail.state),
      el("span", { class: "soft" }, `${detail.tenant} · heard of ${fmt.ago(detail.last_seen)}`));
    const x = detail.excluded, p = detail.position;
    const left = [[x.undated, "undated"], [x.future, "of the future"], [x.uncertain, "of uncertain time"], [x.suspect, "suspect"]].filter(([n]) => n).map(([n, w]) => `${fmt.count(n)} ${w}`);
    const fact = (name, ...text) => [el("dt", {}, name), el("dd", {}, ...text)];
    replace(facts, el("dl", { class: "facts" },
      fact("Queue in the vehicle", fmt.queue(detail.queue)),
      fact("Position", p ? `${p.latitude.toFixed(5)}, ${p.longitude.toFixed(5)}, ${fmt.ago(p.time)}, time by ${p.time_source}` : "none that is believed"),
      left.length ? fact("Positions left out", left.join(", ")) : [],
      fact("Came", `${fmt.plural(detail.batches, "batch", "batches")}`),
      fact("Missing", el("span", { class: detail.gaps ? "bad" : "good" }, detail.gaps ? fmt.plural(detail.gaps, "batch", "batches") : "nothing")),
      fact("Ledger", fmt.plural(detail.losses, "entry", "entries")), fact("Parked", fmt.plural(detail.parked, "batch", "batches")),
      fact("Software", `${detail.version || "not told"}${detail.hardware ? `, ${detail.hardware}` : ""}`),
      detail.info ? fact("Vehicle", [detail.info.vin, detail.info.mode].filter(Boolean).join(", ")) : [],
      detail.power ? fact("Power", detail.power) : [], detail.reason ? fact("Offline because", detail.reason) : [],
      detail.alarm.map((a) => fact("Alarm", el("span", { class: "bad" }, `${a.name}: ${a.text}`)))));
    dot.put(detail, fmt.trouble(detail));
  };
  const drawAll = (fit) => Promise.all([drawTrackOf(fit), drawTrips(), drawEvents(), drawLedger(), signals.draw()]);
  const choose = (w) => {
    window = w;
    drawBar();
    drawAll(true).catch((error) => { if (!signal.aborted) trackWords.textContent = error.message; });
  };

  drawHead();
  drawBar();
  await drawAll(true);
  const again = delayed(async () => {
    if (signal.aborted) return;
    try {
      detail = await get(path, {}, signal);
      drawHead();
      if (window.hours) await drawAll(false);
    } catch { /* the next update tries again */ }
  }, 400);
  return (update) => { if (update.devices.some((d) => d.tenant === tenant && d.device === device)) again(); };
}
