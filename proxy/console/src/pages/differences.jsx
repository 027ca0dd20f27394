// Where answers differ, the most frequent first, with examples of both sides next to each other, and the rule that would take each as noise.
import { useState } from "preact/hooks";
import { get } from "../api.js";
import { count, since, time } from "../format.js";
import { Badge, Code, Dialog, Empty, Failed, Page, useFetched } from "../parts.jsx";
import { link, routes } from "../state.js";

const STATES = { real: "bad", noise: "good", unknown: "warn" };
// What a rule may say of a value; serverless still has to have the shape.
const TYPED = ["uuid", "timestamp", "epoch_ms", "hex(16)", "jwt", "token(1, 64)", "counter", "float(0.01)", "unordered", "optional"];

const patch = (route, rules) => ["routes:", `  - id: ${route}`, "    shadow:", "      rules:", ...rules.map(([path, rule]) => `        ${JSON.stringify(path)}: ${JSON.stringify(rule)}`), ""].join("\n");

function Pin({ it, proposal, onClose }) {
  const [rule, setRule] = useState(proposal?.rule ?? TYPED[0]);
  return (
    <Dialog title="Ignore as a typed rule" onClose={onClose}>
      <p>Values at <code>{it.path}</code> may differ as long as both sides have this shape. A value of another shape stays a difference.</p>
      {proposal
        ? <p class="message good">Proposed: in {count(proposal.controls_differing)} of {count(proposal.controls)} controls legacy differs from itself here, and the rule covers every pair that was seen.</p>
        : <p class="message warn">No proposal: legacy has not been seen to differ from itself here often enough. Pin a rule only if you know why it differs.</p>}
      <label>Rule<select name="rule" value={rule} onChange={(event) => setRule(event.target.value)}>{[...new Set([...(proposal ? [proposal.rule] : []), ...TYPED])].map((name) => <option value={name}>{name}</option>)}</select></label>
      <h3>To be added to the rules of route {it.route}</h3>
      <Code text={patch(it.route, [[it.path, rule]])} label="YAML patch" />
      <div class="buttons"><button type="button" onClick={onClose}>Close</button></div>
    </Dialog>
  );
}

function Cluster({ it, proposal, onPin }) {
  return (
    <details class="cluster">
      <summary><Badge kind={STATES[it.state] ?? "warn"}>{it.state}</Badge> <code>{it.path}</code> <span class="kind">{it.kind}</span> <span class="soft">{count(it.count)} times · {it.route} · last {since(it.last_unix_s)}</span></summary>
      {it.examples.map((example) => (
        <div class="example">
          <p class="soft">{example.method} {example.path} · {time(example.at_unix_s)} · trace <code>{example.trace_id}</code></p>
          <div class="pair">
            <figure><figcaption>legacy</figcaption><pre tabIndex={0} aria-label="legacy">{example.legacy || "(absent)"}</pre></figure>
            <figure><figcaption>serverless</figcaption><pre tabIndex={0} aria-label="serverless">{example.serverless || "(absent)"}</pre></figure>
          </div>
        </div>
      ))}
      <p class="soft">Values are their class and a keyed pseudonym: equal values have equal pseudonyms, and none can be read back.</p>
      <div class="buttons"><button type="button" onClick={() => onPin(it)}>Ignore as typed rule…</button></div>
    </details>
  );
}

export function Differences({ id }) {
  const [words, setWords] = useState(""), [state, setState] = useState(""), [pinned, setPinned] = useState();
  const query = id ? `?route=${encodeURIComponent(id)}` : "";
  const { value, error, again } = useFetched(() => Promise.all([get(`differences${query}`), get(`proposals${query}`)]), id, 5000);
  const [found, proposals] = [value?.[0].differences ?? [], value?.[1].proposals ?? []];
  const proposal = (it) => proposals.find((other) => other.route === it.route && other.path === it.path);
  const shown = found.filter((it) => (!state || it.state === state) && `${it.path} ${it.kind} ${it.route}`.toLowerCase().includes(words.toLowerCase())).sort((a, b) => b.count - a.count);
  const of = Object.groupBy ? Object.groupBy(proposals, (it) => it.route) : {};
  return (
    <Page title={id ? `Differences of ${id}` : "Differences"} actions={<button type="button" class="small" onClick={again}>Look again</button>}>
      <div class="filters">
        <label>Route<select value={id} onChange={(event) => { location.hash = link("differences", event.target.value); }}><option value="">all</option>{routes.value.filter((it) => it.parity || it.id === id).map((it) => <option value={it.id} selected={it.id === id}>{it.id}</option>)}</select></label>
        <label>Find<input type="search" value={words} onInput={(event) => setWords(event.target.value)} placeholder="path, kind, route" /></label>
        <label>State<select value={state} onChange={(event) => setState(event.target.value)}><option value="">any</option><option value="real">real</option><option value="noise">noise</option><option value="unknown">unknown</option></select></label>
        <span class="soft" role="status">{shown.length} of {found.length}</span>
      </div>
      <Failed error={error} />
      {shown.map((it) => <Cluster key={`${it.route} ${it.path} ${it.kind}`} it={it} proposal={proposal(it)} onPin={setPinned} />)}
      {value && !found.length && <Empty>No answers have been seen to differ.</Empty>}
      {proposals.length > 0 && <section aria-labelledby="proposals"><h2 id="proposals">Proposed rules</h2><p>What legacy differs in from itself, covered by the narrowest rule that fits every pair seen. Nothing is applied until it stands in the rules.</p>
        {Object.entries(of).map(([route, all]) => <Code text={patch(route, all.map((it) => [it.path, it.rule]))} label={`YAML patch for ${route}`} />)}</section>}
      {pinned && <Pin it={pinned} proposal={proposal(pinned)} onClose={() => setPinned(undefined)} />}
    </Page>
  );
}
