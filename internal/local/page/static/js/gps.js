// GPS: what the fix is, the sky, and where the vehicle was while somebody looked.

import { el, facts, svg } from "./dom.js";
import { ago, clock, duration, fixed, plural, position } from "./format.js";

// Letters of the systems as in RINEX 3.
const letters = { gps: "G", glonass: "R", galileo: "E", beidou: "C", qzss: "J", navic: "I", sbas: "S", unknown: "?" };

export function gpsPanel(receivers, tracks, now) {
  if (receivers.length === 0) return el("p", { class: "hint" }, "No receiver is configured.");
  return receivers.map((r) => receiver(r, tracks.find((t) => t.receiver === r.name)?.points ?? [], now));
}

function receiver(r, points, now) {
  const fix = r.at_ms === 0 ? "nothing heard yet" : r.mode === "" ? "not known" : r.mode;
  const good = r.mode === "3D" || r.mode === "2D";
  const place = r.withheld && r.latitude === null ? "withheld (position: of the configuration)"
    : r.latitude === null ? "none" : `${position(r.latitude, r.longitude)}${r.withheld ? " (coarse)" : ""}`;
  return el("div", { class: "receiver", "data-receiver": r.name },
    el("h3", {}, r.name, " ", el("span", { class: `badge ${good ? "good" : "warn"}` }, fix), " ", el("span", { class: "soft" }, r.source)),
    el("div", { class: "gps" },
      el("div", {},
        facts([
          ["Position", place],
          ["Speed", r.speed === null ? null : `${fixed(r.speed * 3.6, 1)} km/h${r.parked ? " (parked)" : ""}`],
          ["Track", r.track === null ? null : `${fixed(r.track, 0)}°`],
          ["Altitude", r.altitude === null ? null : `${fixed(r.altitude, 1)} m`],
          ["Error", r.error === null ? null : `${fixed(r.error, 1)} m (1 σ)`],
          ["HDOP", r.hdop === null ? null : fixed(r.hdop, 1)],
          ["Satellites", `${r.used} used${r.seen ? ` of ${r.seen} in view` : ""}`],
          ["Quality", r.quality],
          ["Suspect", r.suspect.length ? el("span", { class: "bad" }, r.suspect.join(", ")) : null],
          ["Odometer", r.odometer ? `${fixed(r.odometer / 1000, 2)} km` : null],
          ["Its time", r.fix_unix_ms ? clock(r.fix_unix_ms) : null],
          ["Heard", r.at_ms === 0 ? "not yet" : ago(r.at_ms, now)],
        ])),
      sky(r), track(points)));
}

// sky is the view from the vehicle upwards: north up, east right, the horizon outside (skyplot).
function sky(r) {
  const known = r.satellites.filter((s) => s.elevation !== null && s.azimuth !== null);
  const point = (elevation, azimuth) => {
    const d = (90 - Math.max(elevation, 0)) / 90 * 92, a = azimuth * Math.PI / 180;
    return [(110 + d * Math.sin(a)).toFixed(1), (110 - d * Math.cos(a)).toFixed(1)];
  };
  const words = known.length ? `${plural(known.length, "satellite")} in view, ${known.filter((s) => s.used).length} used` : "no satellites told yet";
  return el("figure", {}, svg("svg", { viewBox: "0 0 220 220", class: "sky", role: "img", "aria-label": `Sky: ${words}` },
    [92, 61.3, 30.7].map((radius) => svg("circle", { cx: 110, cy: 110, r: radius, class: "ring" })),
    svg("path", { d: "M18 110H202M110 18V202", class: "ring" }),
    [["N", 110, 13], ["E", 211, 114], ["S", 110, 216], ["W", 9, 114]].map(([t, x, y]) => svg("text", { x, y, class: "degree" }, t)),
    known.map((s) => {
      const [x, y] = point(s.elevation, s.azimuth);
      return svg("g", { class: s.used ? "used" : "seen" },
        svg("title", {}, `${s.system} ${s.id}: ${s.used ? "used" : "in view"}, elevation ${s.elevation}°, azimuth ${s.azimuth}°${s.snr === null ? "" : `, ${s.snr} dB-Hz`}`),
        svg("circle", { cx: x, cy: y, r: 9 }), svg("text", { x, y: Number(y) + 3.2 }, `${letters[s.system] ?? "?"}${s.id}`));
    })), el("figcaption", { class: "soft" }, words));
}

// track is a line on a plane: good to a few metres over what is driven in a quarter of an hour.
function track(points) {
  const width = 260, height = 220, margin = 22;
  const caption = (text) => el("figcaption", { class: "soft" }, text);
  const picture = (label, ...children) => svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "track", role: "img", "aria-label": label },
    svg("rect", { x: 1, y: 1, width: width - 2, height: height - 2, rx: 6, class: "ground" }), children);
  if (points.length < 2) return el("figure", {}, picture("Track: none yet"), caption("the track begins when somebody looks"));
  const squeeze = Math.cos(points[0].latitude * Math.PI / 180), metres = 111320;
  const plane = points.map((p) => [(p.longitude - points[0].longitude) * squeeze * metres, (p.latitude - points[0].latitude) * metres]);
  const [xs, ys] = [plane.map((p) => p[0]), plane.map((p) => p[1])];
  const [west, east, south, north] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((width - 2 * margin) / Math.max(east - west, 20), (height - 2 * margin - 14) / Math.max(north - south, 20));
  const place = ([x, y]) => [(width / 2 + (x - (west + east) / 2) * scale).toFixed(1), (height / 2 - 7 - (y - (south + north) / 2) * scale).toFixed(1)];
  const [start, end] = [place(plane[0]), place(plane.at(-1))];
  const nice = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].findLast((m) => m * scale <= 90) ?? 5;
  return el("figure", {}, picture(`Track of ${plural(points.length, "point")}`,
    svg("path", { d: plane.map((p, i) => `${i ? "L" : "M"}${place(p).join(" ")}`).join(""), class: "way" }),
    svg("circle", { cx: start[0], cy: start[1], r: 4, class: "start" }), svg("circle", { cx: end[0], cy: end[1], r: 5.5, class: "here" }),
    svg("path", { d: `M${width - 12 - nice * scale} ${height - 12}h${nice * scale}m0 -4v8m${-nice * scale} -8v8`, class: "scale" }),
    svg("text", { x: width - 12 - nice * scale / 2, y: height - 17, class: "degree" }, nice < 1000 ? `${nice} m` : `${nice / 1000} km`)),
  caption(`the last ${duration((points.at(-1).at_ms - points[0].at_ms) / 1000)}, north up`));
}
