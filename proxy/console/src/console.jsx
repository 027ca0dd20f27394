// The shell: where we are, how the proxy does, who is asking. Pages are below.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import "./console.css";
import { me, needsToken, setToken, token } from "./api.js";
import { Change } from "./change.jsx";
import { ago } from "./format.js";
import { Audit } from "./pages/audit.jsx";
import { Differences } from "./pages/differences.jsx";
import { Discovery } from "./pages/discovery.jsx";
import { Egress } from "./pages/egress.jsx";
import { Explain } from "./pages/explain.jsx";
import { Overview } from "./pages/overview.jsx";
import { Route } from "./pages/route.jsx";
import { Badge, Dialog, Page } from "./parts.jsx";
import { link, may, notice, place, setTheme, snapshot, start, stream, theme } from "./state.js";

const PAGES = [["overview", "Overview", Overview], ["differences", "Differences", Differences], ["explain", "Explain", Explain], ["audit", "Audit", Audit], ["egress", "Egress", Egress], ["discovery", "Discovery", Discovery]];

function SignIn() {
  const [value, setValue] = useState("");
  const submit = (event) => { event.preventDefault(); setToken(value.trim()); };
  return (
    <Dialog title="A token is needed" onClose={() => { needsToken.value = false; }}>
      <form onSubmit={submit}>
        <p>This proxy asks who is there (<code>admin.tokens</code> in its settings). The token is kept for this tab only.</p>
        <label>Token<input type="password" name="token" required value={value} onInput={(event) => setValue(event.target.value)} autoComplete="off" /></label>
        <div class="buttons"><button type="submit" class="primary">Use it</button></div>
      </form>
    </Dialog>
  );
}

// Live, or since when not; read out only when it changes.
function Stream() {
  const { state, why, since } = stream.value;
  const [, tick] = useState(0);
  useEffect(() => { const timer = setInterval(() => tick((it) => it + 1), 5000); return () => clearInterval(timer); }, []);
  if (state === "live") return <span role="status"><Badge kind="good">live</Badge></span>;
  const age = Math.round((Date.now() - since) / 1000);
  return <span role="status" title={why}><Badge kind="warn">{state === "connecting" ? "connecting" : `no news for ${ago(age)}; connecting again`}</Badge></span>;
}

function Kills({ onChange }) {
  const kills = snapshot.value?.revision?.kill ?? [];
  const all = kills.includes("all");
  if (!kills.length) return null;
  return (
    <div class="killed" role="alert">
      <strong><span aria-hidden="true">✕ </span>Kill switch on: {kills.join(", ")}.</strong> Legacy answers.
      {may.value.change && kills.filter((scope) => scope !== "all" || may.value.unkillAll).map((scope) => <button type="button" class="small" onClick={() => onChange({ action: "unkill", scope })}>Turn off {scope}</button>)}
      {all && may.value.change && !may.value.unkillAll && <span> Only an admin may turn this one off.</span>}
    </div>
  );
}

function Top({ onChange }) {
  const about = snapshot.value?.revision;
  const { page } = place.value;
  return (
    <header>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.querySelector("h1")?.focus(); }}>Skip to content</a>
      <div class="top">
        <a class="brand" href={link("overview")}><img src="icon.svg" alt="" width="24" height="24" />Banyan</a>
        <Stream />
        <span class="spring" />
        {about && <span class="soft">revision <code>{about.revision}</code>{about.state_revision ? <> · state {about.state_revision}</> : null}</span>}
        {me.value && <span class="soft">{me.value.name ?? "this machine"} ({me.value.role})</span>}
        {token.value && <button type="button" class="small" onClick={() => { setToken(""); needsToken.value = true; }}>Sign out</button>}
        <label class="theme"><span class="hidden">Colours</span>
          <select value={theme.value} onChange={(event) => setTheme(event.target.value)}><option value="system">system</option><option value="light">light</option><option value="dark">dark</option></select>
        </label>
        <button type="button" class="danger small" disabled={!may.value.change || about?.kill?.includes("all")} onClick={() => onChange({ action: "kill", scope: "all" })}>Kill everything…</button>
      </div>
      <nav aria-label="Pages">{PAGES.map(([name, title]) => <a href={link(name)} aria-current={name === page || (name === "overview" && page === "route") ? "page" : undefined}>{title}</a>)}</nav>
    </header>
  );
}

function Notice() {
  const it = notice.value;
  useEffect(() => {
    if (!it) return;
    const timer = setTimeout(() => { notice.value = null; }, 8000);
    return () => clearTimeout(timer);
  }, [it]);
  return <div class="notices" aria-live="polite">{it && <p class={`message ${it.kind}`}>{it.text} <button type="button" class="small" onClick={() => { notice.value = null; }}>Close</button></p>}</div>;
}

const Nowhere = () => <Page title="No such page"><p><a href={link("overview")}>Overview</a></p></Page>;

function App() {
  const [change, setChange] = useState();
  const { page, id, query } = place.value;
  const It = page === "route" ? Route : (PAGES.find(([name]) => name === page)?.[2] ?? Nowhere);
  return (
    <>
      <Top onChange={setChange} />
      <Kills onChange={setChange} />
      <Notice />
      <It key={`${page}/${id}`} id={id} query={query} onChange={setChange} />
      {change && <Change change={change} onClose={() => setChange(undefined)} />}
      {needsToken.value && <SignIn />}
    </>
  );
}

start();
render(<App />, document.getElementById("app"));
