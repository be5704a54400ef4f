// Numbers, times and states in words.

const whole = new Intl.NumberFormat("en");
export const count = (n) => whole.format(n);

export function value(v) {
  if (v === null || v === undefined) return "–";
  if (typeof v === "string") return v;
  if (Number.isInteger(v)) return whole.format(v);
  return Math.abs(v) >= 1e6 || Math.abs(v) < 1e-3 ? v.toExponential(3) : String(Number(v.toPrecision(6)));
}

export function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000 || unit === "GB") return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
  return "";
}

export function duration(ms) {
  const s = Math.round(Math.abs(ms) / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.round(s / 86400)} days`;
}

// The server's clock counts: a browser's may be wrong.
let ahead = 0;
export function serverNow(iso) { ahead = Date.parse(iso) - Date.now(); }
export const now = () => Date.now() + ahead;

export function ago(iso) {
  const ms = now() - Date.parse(iso);
  return ms < 2000 ? "now" : `${duration(ms)} ago`;
}

const two = (n) => String(n).padStart(2, "0");
export function clock(time) {
  if (time === null || time === undefined) return "time not known";
  const t = new Date(time);
  const day = `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())}`;
  return `${day} ${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
}

export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

const seqs = (first, last) => (first === last ? `number ${first}` : `numbers ${first} to ${last}`);

// gap says whether what is missing may be on its way.
export function gap(g) {
  const what = `${plural(g.batches, "batch", "batches")} of lane ${g.lane} (${seqs(g.first_seq, g.last_seq)}) did not come and stand in no ledger`;
  if (g.queued === null) return `${what}. The vehicle did not say what it still has: lost or late.`;
  if (g.queued >= g.batches) return `${what}. The vehicle said to have ${plural(g.queued, "batch", "batches")} in its queue: it may be late.`;
  return `${what}. The vehicle said to have ${g.queued === 0 ? "none" : `only ${count(g.queued)}`} in its queue: not all of it can be on its way.`;
}

export function loss(l) {
  const n = l.count_unknown ? "an unknown number of" : `${l.count_is_bound ? "at most " : ""}${count(l.count)}`;
  let text = `${n} ${l.unit || "items"}: ${l.reason}`;
  if (l.source) text += `, ${l.source}`;
  if (l.seqs.length) text += `, lane ${l.lane}, ${l.seqs.map((r) => seqs(r.first, r.last)).join(", ")}`;
  if (l.arrived) text += `; ${count(l.arrived)} of them came all the same`;
  return l.detail ? `${text} (${l.detail})` : text;
}

export function parked(p) {
  const why = p.reason === "catalogue" ? "waits for its catalogue" : p.reason === "format" ? "needs a newer reader" : p.reason;
  return `Batch ${p.seq} of lane ${p.lane}, ${plural(p.samples, "sample")}: came, and ${why}.`;
}

export function trouble(d) {
  const words = [];
  if (d.gaps) words.push(`${plural(d.gaps, "batch", "batches")} missing`);
  if (d.losses) words.push(plural(d.losses, "loss", "losses"));
  if (d.parked) words.push(`${count(d.parked)} parked`);
  if (d.alarms) words.push(plural(d.alarms, "alarm"));
  return words.join(", ");
}

export function queue(q) {
  if (!q) return "not told";
  return `${plural(q.batches, "batch", "batches")}, ${bytes(q.bytes)} (told ${ago(q.as_of)})`;
}
