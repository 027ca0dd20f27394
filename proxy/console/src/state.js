// What all pages share: the last snapshot, how the stream does, where we are, and the audit log's newest entry for each route.
import { computed, effect, signal } from "@preact/signals";
import { get, me, token, watch } from "./api.js";

export const snapshot = signal(null);
export const stream = signal({ state: "connecting", since: Date.now() });
export const place = signal(read());
export const audit = signal(null);
export const theme = signal(localStorage.getItem("banyan-theme") ?? "system");
export const notice = signal(null);

// `#/route/orders?x=y` -> {page, id, query}
function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...id] = path.split("/");
  return { page: page || "overview", id: id.map(decoded).join("/"), query: new URLSearchParams(query ?? "") };
}
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
addEventListener("hashchange", () => { place.value = read(); });

export const link = (page, id = "", query = "") => `#/${page}${id ? `/${encodeURIComponent(id)}` : ""}${query ? `?${query}` : ""}`;
export const routes = computed(() => snapshot.value?.routes ?? []);
export const route = (id) => routes.value.find((it) => it.id === id);
export const lastChanges = computed(() => {
  const last = new Map();
  for (const entry of audit.value?.entries ?? []) last.set(entry.scope.replace(/^route:/, ""), entry);
  return last;
});
export const may = computed(() => {
  const rank = ["viewer", "operator", "admin"].indexOf(me.value?.role);
  return { change: rank >= 1, unkillAll: rank >= 2 };
});

effect(() => {
  const dark = theme.value === "dark" || (theme.value === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme.value = `${theme.value}`; if (theme.value === "system") document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"; });
export function setTheme(value) {
  theme.value = value;
  localStorage.setItem("banyan-theme", value);
}

let revision;
async function readAudit(now) {
  if (now === revision) return;
  revision = now;
  try {
    audit.value = await get("audit");
  } catch {
    revision = undefined;
  }
}
export const auditAgain = () => { revision = undefined; };

// Starts over whenever the token changes.
export function start() {
  let stop = () => {};
  effect(() => {
    token.value;
    stop();
    get("whoami").then((it) => { me.value = it; }, () => { me.value = null; });
    stop = watch(
      (value) => {
        snapshot.value = value;
        const { revision: about } = value;
        if (about) readAudit(`${about.state_revision} ${about.kill}`);
      },
      (state, why) => { if (stream.value.state !== state || why) stream.value = { state, why, since: state === stream.value.state ? stream.value.since : Date.now() }; },
    );
  });
}
