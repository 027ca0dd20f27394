// Figures as people read them. A figure that is not known is a dash, never a zero.
export const DASH = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const percent = (ratio, digits = 2) => (isNumber(ratio) ? `${trim((ratio * 100).toFixed(digits))} %` : DASH);
export const share = (ppm) => (isNumber(ppm) ? `${trim((ppm / 10_000).toFixed(4))} %` : DASH);
export const trim = (text) => (text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text);
export const count = (value) => (isNumber(value) ? value.toLocaleString("en") : DASH);

export function rate(value) {
  if (!isNumber(value)) return DASH;
  return value === 0 ? "0/s" : value >= 100 ? `${Math.round(value)}/s` : `${trim(value.toFixed(1))}/s`;
}

export function seconds(value) {
  if (!isNumber(value)) return DASH;
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${trim((value * 1000).toFixed(value < 0.01 ? 1 : 0))} ms`;
  return value < 120 ? `${trim(value.toFixed(1))} s` : ago(value);
}

export function bytes(value) {
  if (!isNumber(value)) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at++; }
  return `${trim(value.toFixed(at ? 1 : 0))} ${units[at]}`;
}

export function ago(age) {
  if (age < 60) return `${Math.max(0, Math.floor(age))} s`;
  if (age < 3600) return `${Math.floor(age / 60)} min`;
  if (age < 172_800) return `${Math.floor(age / 3600)} h`;
  return `${Math.floor(age / 86_400)} d`;
}
export const since = (unix) => (unix ? `${ago(Date.now() / 1000 - unix)} ago` : DASH);
export const time = (unix) => (unix ? new Date(unix * 1000).toISOString().replace("T", " ").replace(".000Z", " UTC") : DASH);

// The part of a route that is in trouble, in words; empty when none is.
export function troubles(it) {
  const found = [];
  if (it.killed) found.push("killed");
  if (it.state?.rolled_back) found.push("rolled back");
  if (it.gate?.verdict === "roll_back") found.push("rolling back");
  for (const side of ["legacy", "serverless"]) {
    if (it.health?.[side] && !it.health[side].available) found.push(`${side} unavailable`);
    if (it.now?.[side]?.failed > 0.01) found.push(`${side} fails ${percent(it.now[side].failed)}`);
  }
  return found;
}
