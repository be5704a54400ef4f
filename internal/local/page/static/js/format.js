// Numbers, times and states in words.

const whole = new Intl.NumberFormat("en");
export const count = (n) => whole.format(n);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// value writes a physical value with at most six digits behind those before the point.
export function value(v) {
  if (v === null || v === undefined) return "–";
  if (Number.isInteger(v) && Math.abs(v) < 1e12) return whole.format(v);
  const size = Math.abs(v);
  if (size >= 1e9 || size < 1e-4) return v.toExponential(3);
  return String(Number(v.toFixed(size >= 1000 ? 2 : size >= 1 ? 4 : 6)));
}

export function fixed(v, digits) { return v === null || v === undefined ? "–" : v.toFixed(digits); }

export function bytes(n) {
  if (n === null || n === undefined || n < 0) return "not known";
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (n < 1000 || unit === "TB") return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
  return "";
}

export function duration(seconds) {
  const s = Math.abs(seconds);
  if (s < 10) return `${Number(s.toFixed(1))} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.round(s / 86400)} days`;
}

// small writes an uncertainty: microseconds to seconds.
export function small(seconds) {
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  return seconds < 1 ? `${Math.round(seconds * 1e3)} ms` : duration(seconds);
}

export function ago(ms, now) { return now - ms < 1500 ? "now" : `${duration((now - ms) / 1000)} ago`; }

const two = (n) => String(n).padStart(2, "0");
export function clock(unixMS) {
  const t = new Date(unixMS);
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
}

// words turns a name of the program into words: error_active.
export const words = (name) => name.replaceAll("_", " ");

// position writes degrees with the hemisphere; five digits are a metre.
export function position(latitude, longitude) {
  return `${Math.abs(latitude).toFixed(5)}° ${latitude < 0 ? "S" : "N"}, ${Math.abs(longitude).toFixed(5)}° ${longitude < 0 ? "W" : "E"}`;
}
