// Talks to the admin API: requests with a token, and the stream of snapshots. Nothing is stored but the token, for this tab.
import { signal } from "@preact/signals";

const KEY = "banyan-token";
export const token = signal(sessionStorage.getItem(KEY) ?? "");
// null: not asked yet; {name, role} afterwards.
export const me = signal(null);
export const needsToken = signal(false);

export function setToken(value) {
  token.value = value;
  value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY);
  needsToken.value = false;
}

const headers = (more = {}) => (token.value ? { Authorization: `Bearer ${token.value}`, ...more } : more);

// A problem document of the API, or what the network said.
export class Problem extends Error {
  constructor(status, value) {
    super(value?.detail ? `${value.title}: ${value.detail}` : (value?.title ?? `status ${status}`));
    this.status = status;
    this.code = value?.code;
    this.revision = value?.state_revision;
  }
}

async function call(path, init) {
  const answer = await fetch(`/api/v1/${path}`, init);
  const value = await answer.json().catch(() => null);
  if (answer.status === 401) needsToken.value = true;
  if (!answer.ok) throw new Problem(answer.status, value);
  return value;
}

export const get = (path) => call(path, { headers: headers() });
export const post = (path, body) => call(path, { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) });

const SILENCE = 6_000;
// Snapshots for ever: connects again after a drop, later and later up to ten seconds. Returns a function that ends it.
export function watch(onSnapshot, onState) {
  let over = false, pause = 500, abort;
  async function one() {
    abort = new AbortController();
    // A snapshot comes every second: a connection that says nothing is none.
    let timer;
    const alive = () => { clearTimeout(timer); timer = setTimeout(() => abort.abort(new Error("no news")), SILENCE); };
    alive();
    try {
      await read(alive);
    } finally {
      clearTimeout(timer);
    }
  }
  async function read(alive) {
    const answer = await fetch("/api/v1/events", { headers: headers({ Accept: "text/event-stream" }), signal: abort.signal });
    if (answer.status === 401) {
      // Nothing changes until somebody brings another token, which begins anew.
      needsToken.value = true;
      over = true;
    }
    if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => null));
    onState("live");
    pause = 500;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      alive();
      if (done) throw new Error("the stream ended");
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const data = rest.slice(0, end).split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        rest = rest.slice(end + 2);
        if (data) onSnapshot(JSON.parse(data));
      }
    }
  }
  (async () => {
    while (!over) {
      try {
        await one();
      } catch (error) {
        onState("lost", error?.message);
        if (over) return;
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, 10_000);
    }
  })();
  return () => {
    over = true;
    onState = () => {};
    abort?.abort();
  };
}
