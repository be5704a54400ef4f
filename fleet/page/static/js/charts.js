// Charts: uPlot, a band from least to greatest with the mean in it; and small lines for lists.

/* global uPlot */

import { clock } from "./format.js";

// ticks writes a day where one begins, else hours and minutes, seconds where they tell apart.
function ticks(u, splits, axis, space, step) {
  return splits.map((at) => {
    const [day, time] = clock(at * 1000).split(" ");
    if (step >= 86400 || time === "00:00:00") return day.slice(5);
    return step < 60 ? time : time.slice(0, 5);
  });
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// chart draws one series of the API. onZoom(from, to) is called with Unix ms when a stretch was chosen.
export function chart(node, series, unit, height, onZoom) {
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui" };
  const track = colour("--track");
  const plot = new uPlot({
    width: Math.max(node.clientWidth, 200), height, legend: { show: true, live: true },
    cursor: { drag: { x: true, y: false, setScale: false }, sync: { key: "vehicle" } },
    scales: { x: { time: true, range: () => [series.from / 1000, series.to / 1000] } },
    axes: [{ ...axis, values: ticks }, { ...axis, size: 58 }],
    series: [
      { label: "time", value: (u, at) => (at === null ? "–" : clock(at * 1000)) },
      { label: `max ${unit}`, stroke: "transparent", points: { show: false } },
      { label: `min ${unit}`, stroke: "transparent", points: { show: false } },
      { label: `mean ${unit}`, stroke: track, width: 1.6, points: { show: series.t.length < 40, size: 5 } },
    ],
    bands: [{ series: [1, 2], fill: colour("--fill") }],
    hooks: { setSelect: [(u) => {
      if (u.select.width < 4) return;
      const at = (px) => Math.round(u.posToVal(px, "x") * 1000);
      const [from, to] = [at(u.select.left), at(u.select.left + u.select.width)];
      u.setSelect({ width: 0, height: 0 }, false);
      onZoom(from, to);
    }] },
  }, columns(series), node);
  const fits = new ResizeObserver(() => plot.setSize({ width: Math.max(node.clientWidth, 200), height }));
  fits.observe(node);
  return () => { fits.disconnect(); plot.destroy(); };
}

// columns are what uPlot draws; a line is not drawn across a time of which nothing is known.
function columns(s) {
  const out = [[], [], [], []];
  const gap = Math.max(4 * s.width_ms, 120000);
  for (let i = 0; i < s.t.length; i++) {
    if (i > 0 && s.t[i] - s.t[i - 1] > gap) {
      out[0].push((s.t[i - 1] + 1) / 1000);
      for (const c of out.slice(1)) c.push(null);
    }
    out[0].push(s.t[i] / 1000);
    out[1].push(s.max[i]);
    out[2].push(s.min[i]);
    out[3].push(s.mean[i]);
  }
  return out;
}

// spark is a small line without axes.
export function spark(series) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 92 24");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  if (series.t.length < 2) return svg;
  const low = Math.min(...series.min), high = Math.max(...series.max);
  const x = (t) => 1 + (90 * (t - series.from)) / (series.to - series.from);
  const y = (v) => (high > low ? 22 - (20 * (v - low)) / (high - low) : 12);
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", series.t.map((t, i) => `${i ? "L" : "M"}${x(t).toFixed(1)} ${y(series.mean[i]).toFixed(1)}`).join(""));
  svg.append(path);
  return svg;
}
