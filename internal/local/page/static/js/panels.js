// The panels: each makes elements of a part of the agent's state.

import { spark } from "./chart.js";
import { el, facts, table } from "./dom.js";
import { ago, bytes, clock, count, duration, fixed, plural, small, value, words } from "./format.js";

// since is a moment of the boot's clock as wall time, if that is known.
const since = (ms, now) => (now.unix_ms ? `since ${clock(now.unix_ms - now.boot_ms + ms)}` : `since ${duration(ms / 1000)} after the boot`);

export function alarms(list, now) {
  if (list.length === 0) return el("p", { class: "calm" }, "No alarms.");
  return el("ul", { class: "alarms" }, list.map((a) => el("li", {}, el("b", {}, a.name), " ",
    el("span", { class: "soft" }, `${since(a.since_ms, now)}${a.times > 1 ? `, ${a.times} times` : ""}`), el("p", {}, a.text))));
}

export function cards(s, rate) {
  const card = (title, big, under, kind) => el("li", { class: "card" }, el("span", {}, title), el("b", { class: kind }, big), el("span", {}, under));
  const fix = s.receivers.find((r) => r.mode === "3D" || r.mode === "2D") ?? s.receivers[0];
  const lost = s.losses.reduce((sum, l) => sum + l.count, 0);
  const frames = s.buses.reduce((sum, b) => sum + (b.frame_rate ?? 0), 0);
  return [
    card("Buses", `${count(Math.round(frames))}/s`, `frames; ${s.buses.filter((b) => b.up).length} of ${s.buses.length} read`),
    card("Signals", `${count(Math.round(rate))}/s`, `samples; ${count(s.collect.signals)} collected`),
    fix && card("GPS", fix.at_ms === 0 || !fix.mode ? "–" : fix.mode, fix.seen ? `${fix.used} of ${fix.seen} satellites` : plural(fix.used, "satellite"), fix.mode === "3D" || fix.mode === "2D" ? "good" : "warn"),
    card("Queue", bytes(s.queue.bytes), `${plural(s.queue.batches, "batch", "batches")}${s.queue.oldest_s === null ? "" : `, oldest ${duration(s.queue.oldest_s)}`}`),
    card("Uplink", s.uplink ? s.uplink.phase : "none", s.uplink ? `${bytes(s.uplink.send_rate ?? 0)}/s` : "record only", s.uplink?.phase === "online" ? "good" : "warn"),
    card("Lost", count(lost), lost ? "see Losses" : "nothing", lost ? "bad" : "good"),
  ];
}

const troubled = ["error_passive", "bus_off", "stopped", "gone"];
const loads = new Map(); // bus → its load or rate of the last minute

// buses also keeps the course of each bus, which the agent does not.
export function buses(list) {
  if (list.length === 0) return el("p", { class: "hint" }, "No bus is configured.");
  return list.map((b) => {
    const course = loads.get(b.name) ?? loads.set(b.name, []).get(b.name);
    course.push(b.load_percent ?? b.frame_rate);
    if (course.length > 60) course.shift();
    const line = spark();
    if (b.load_percent === null) line.draw(course, 60, 0);
    else line.draw(course, 60, 0, 100);
    const state = b.replay ? "replay" : !b.up ? "not read" : b.state ? words(b.state) : "read";
    const bad = !b.up || troubled.includes(b.state);
    return el("div", { class: "bus", "data-bus": b.name },
      el("h3", {}, b.name, " ", el("span", { class: `badge ${bad ? "bad" : b.state === "error_warning" ? "warn" : "good"}` }, state), " ",
        el("span", { class: "soft" }, b.replay ? b.replay.split("/").at(-1) : [b.interface, b.kind, b.bitrate ? `${b.bitrate / 1000} kbit/s` : "",
          b.fd ? "FD" : "", b.listen_only && b.kind === "can" ? "listen-only" : ""].filter(Boolean).join(", "))),
      el("div", { class: "load" },
        b.load_percent === null ? null : el("meter", { min: "0", max: "100", low: "60", high: "80", optimum: "0", value: b.load_percent, "aria-label": `Load of ${b.name}` }),
        b.load_percent === null ? null : el("b", {}, `${fixed(b.load_percent, 0)} %`),
        el("b", {}, b.frame_rate === null ? "" : `${count(Math.round(b.frame_rate))} frames/s`), line.node),
      facts([
        ["Frames", count(b.frames)],
        ["Errors", b.replay ? null : `${plural(b.error_frames, "error frame")}${b.tx_errors === null ? "" : `, counters ${b.tx_errors} transmit, ${b.rx_errors} receive`}`],
        ["Bus-off", b.bus_offs ? el("span", { class: "bad" }, `${b.bus_offs} times, ${b.restarts} restarts`) : null],
        ["Dropped", b.drops ? el("span", { class: "bad" }, `${plural(b.drops, "frame")} by the kernel`) : null],
        ["Too short", b.short ? el("span", { class: "bad" }, plural(b.short, "frame")) : null],
        ["Not asked for", b.unknown ? plural(b.unknown, "frame") : null],
      ]));
  });
}

export function uplink(u, now) {
  if (!u) return el("p", { class: "hint" }, "No broker is configured: what is collected stays on this device.");
  const kind = u.phase === "online" ? "good" : u.phase === "refused" ? "bad" : "warn";
  return [
    el("p", {}, el("span", { class: `badge ${kind}` }, u.phase), ` ${u.text.slice(u.phase.length + 2)}, for ${duration((now - u.since_ms) / 1000)}`,
      u.next_try_ms ? `; next try in ${duration(Math.max(u.next_try_ms - now, 0) / 1000)}` : ""),
    u.insecure && el("p", { class: "warn" }, "Not encrypted: for a bench only."),
    facts([
      ["Broker", u.broker],
      ["Link", u.link],
      ["Sending", u.send_rate === null ? null : `${bytes(u.send_rate)}/s, ${bytes(u.bytes_sent)} in all`],
      ["Bears", u.bandwidth === null ? null : `${bytes(u.bandwidth)}/s, as the broker's answers show`],
      ["Round trip", u.rtt_ms === null ? "not known yet" : `${u.rtt_ms < 10 ? fixed(u.rtt_ms, 1) : Math.round(u.rtt_ms)} ms to the broker's answer`],
      ["Receipts", `${count(u.receipts)} of the store${u.store ? ` ${u.store}` : ""}: it has ${plural(u.batches_released, "batch", "batches")}`],
      ["On the way", `${plural(u.in_flight, "publish", "publishes")} without answer, ${plural(u.unreceipted, "batch", "batches")} without receipt`],
      ["Sent again", u.batches_resent ? plural(u.batches_resent, "batch", "batches") : null],
      ["Rejected", u.batches_rejected ? el("span", { class: "bad" }, plural(u.batches_rejected, "batch", "batches")) : null],
      ["Parked", u.batches_parked ? el("span", { class: "warn" }, plural(u.batches_parked, "batch", "batches")) : null],
      ["Connections", `${count(u.connections)}, ${u.connection_losses} of them lost`],
    ]),
    u.links.length > 0 && table("Links", [["Link", (l) => l.name], ["", (l) => el("span", { class: l.up ? "good" : "warn" }, l.up ? "up" : `down: ${l.why}`)],
      ["", (l) => (l.metered ? "metered" : "")]], u.links, ""),
  ];
}

export function queue(q, now) {
  const f = q.flash;
  return [
    table("Lanes of the queue", [["Lane", (l) => l.name], ["Waiting", (l) => plural(l.batches, "batch", "batches"), "number"], ["", (l) => bytes(l.bytes), "number"],
      ["Samples", (l) => count(l.samples), "number"], ["Let go", (l) => (l.evicted ? el("span", { class: "bad" }, count(l.evicted)) : "0"), "number"]], q.lanes, ""),
    facts([
      ["Oldest", q.oldest_s === null ? "none waits" : duration(q.oldest_s)],
      ["On disk", `${bytes(q.disk_bytes)} of ${bytes(q.max_bytes)}`],
      ["Free", `${bytes(q.free_bytes)} of the file system`],
      ["Last commit", q.commit_ms ? ago(q.commit_ms, now) : "none yet"],
      ["Damaged", q.damaged ? el("span", { class: "bad" }, plural(q.damaged, "batch", "batches")) : null],
      ["Written", f.written_bytes < 0 ? null : `${bytes(f.written_bytes)}${f.bytes_per_day === null ? "" : `, ${bytes(f.bytes_per_day)} a day`}${f.device ? ` to ${f.device}` : ""}`],
      ["Flash life", f.life_used_percent === null ? null : `${f.life_used_percent > 100 ? "over" : `up to ${f.life_used_percent} % of it`} used${f.end_of_life ? `, reserve ${f.end_of_life}` : ""}`],
    ]),
  ];
}

export function losses(list) {
  return table("Losses since the start", [["Reason", (l) => words(l.reason)], ["Source", (l) => l.source],
    ["Count", (l) => (l.count ? `${count(l.count)} ${l.unit}` : `${l.unit}, not known how many`), "number"]], list, "Nothing was lost since the start.");
}

export function clockPanel(c, now) {
  const source = { none: "nobody", system: "the system", ntp: "NTP", gps: "GPS", floor: "what is certain at least", log: "the recording", neighbour: "a neighbour" }[c.source] ?? c.source;
  return facts([
    ["Time", now.unix_ms ? clock(now.unix_ms) : "not known"],
    ["By", source],
    ["Good to", c.uncertainty_s === null ? "nobody vouches for it" : `± ${small(c.uncertainty_s)}`],
    ["Contradicted", c.contradicted ? el("span", { class: "bad" }, "GPS denies the system's clock") : null],
    ["Steps", c.steps ? plural(c.steps, "step") : null],
    ["Suspends", c.suspends ? count(c.suspends) : null],
    ["Refused fixes", c.refused_fixes ? count(c.refused_fixes) : null],
  ]);
}

export function collect(c) {
  const how = (p) => [p.on_change ? "changes" : "every sample", p.dead_band ? `of more than ${value(p.dead_band)}` : "", p.min_interval_s ? `at most each ${duration(p.min_interval_s)}` : "",
    p.max_interval_s ? `at least each ${duration(p.max_interval_s)}` : ""].filter(Boolean).join(", ");
  return [
    el("p", {}, `${plural(c.signals, "signal")} of ${count(c.available)} that could be; catalogue ${c.catalogue}.`),
    table("Patterns", [["Pattern", (p) => el("code", {}, p.match)], ["Lane", (p) => p.lane], ["What", how]], c.patterns, "No signals."),
    c.rules.length > 0 && table("Rules", [["Rule", (r) => r.name], ["Signal", (r) => el("code", {}, r.signal)],
      ["When", (r) => [r.above === null ? "" : `above ${value(r.above)}`, r.below === null ? "" : `below ${value(r.below)}`].filter(Boolean).join(", ")]], c.rules, ""),
    c.recorded.length > 0 && el("p", {}, `Frames of ${c.recorded.join(", ")} are kept as they are.`),
  ];
}

export function versions(a, now, update, power) {
  return facts([
    ["Agent", `${a.version}${a.slot ? `, slot ${a.slot}` : ""}`],
    ["Built", [a.built, a.go, a.hardware].filter(Boolean).join(", ")],
    ["Commit", a.commit.slice(0, 12)],
    ["Device", `${a.tenant}/${a.device}`],
    ["Runs", `for ${duration(now.uptime_s)}, ${bytes(now.rss_bytes)} of memory`],
    ["Boot", `number ${a.boots}, ${a.boot_id}`],
    ["Queue", `epoch ${a.epoch}`],
    ["Power", power],
    ["Profile", a.profile],
    ["Update", update ? `${update.phase}: ${update.text}` : null],
  ]);
}
