// Lines: small ones without axes, and uPlot's for a signal that somebody has chosen.

/* global uPlot */

import { setAttribute, svg } from "./dom.js";
import { value } from "./format.js";

const width = 92, height = 24;

// spark makes a small line, to be drawn with draw. label, if given, is read out.
export function spark(label) {
  const path = svg("path");
  const hidden = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "spark", preserveAspectRatio: "none", ...hidden }, path);
  // draw shows points, nulls left out, so that the newest is at the right; low and high may be given.
  const draw = (points, most, low, high) => {
    const known = points.filter((p) => p !== null);
    low ??= Math.min(...known);
    high ??= Math.max(...known);
    const x = (i) => (width - 2 - ((points.length - 1 - i) * (width - 4)) / (most - 1)).toFixed(1);
    const y = (v) => (high > low ? height - 2 - ((height - 4) * (v - low)) / (high - low) : height / 2).toFixed(1);
    let d = "", pen = "M";
    points.forEach((p, i) => {
      if (p === null) { pen = "M"; return; }
      d += `${pen}${x(i)} ${y(p)}`;
      pen = "L";
    });
    setAttribute(path, "d", known.length > 1 ? d : "");
  };
  return { node, draw };
}

export const haveCharts = () => typeof uPlot !== "undefined";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// chart draws a signal's history; set takes new points, stop ends it.
export function chart(node, unit, periodS) {
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui" };
  const wide = () => Math.max(node.clientWidth, 160);
  const plot = new uPlot({
    width: wide(), height: 150, legend: { show: false }, cursor: { drag: { setScale: false, x: false, y: false } },
    scales: { x: { time: false }, y: { range: (u, low, high) => (low === null ? [0, 1] : low === high ? [low - 1, high + 1] : [low - (high - low) * 0.05, high + (high - low) * 0.05]) } },
    axes: [{ ...axis, size: 28, space: 45, incrs: [5, 10, 15, 30, 60], values: (u, splits) => splits.map((s) => (s === 0 ? "now" : `${s} s`)) },
      { ...axis, size: 62, values: (u, splits) => splits.map((s) => value(s)) }],
    series: [{}, { label: unit, stroke: colour("--track"), width: 1.6, points: { show: false } }],
  }, [[], []], node);
  const fits = new ResizeObserver(() => plot.setSize({ width: wide(), height: 150 }));
  fits.observe(node);
  return {
    set: (points) => plot.setData([points.map((_, i) => (i - points.length + 1) * periodS), points]),
    stop: () => { fits.disconnect(); plot.destroy(); },
  };
}
