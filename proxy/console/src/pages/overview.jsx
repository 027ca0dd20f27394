// A row for each route: where it is in its life, and how both sides do, next to each other.
import { Component } from "preact";
import { useMemo, useState } from "preact/hooks";
import { DASH, ago, percent, rate, seconds, since, troubles } from "../format.js";
import { Badge, Empty, Page, ShareBar, Stage } from "../parts.jsx";
import { lastChanges, link, routes, snapshot } from "../state.js";

// Rows drawn at once; a screen has no more, and a filter finds the others.
const ROWS = 50;
const HEAD = ["Route", "Stage", "Share", "Legacy", "Serverless", "Parity", "Health", "Last change"];

function parity(it) {
  if (!it.parity) return DASH;
  return `≤ ${percent(it.parity.upper_bound, 3)} differ`;
}

// Drawn again only when what it says has changed: of 500 routes few do from one second to the next.
class Row extends Component {
  shouldComponentUpdate(next) {
    return next.text !== this.props.text;
  }

  render({ it, changed }) {
    const trouble = troubles(it);
    const side = (name) => {
      const now = it.now[name];
      if (!it[name]) return <span class="soft">none</span>;
      return (
        <span class="figures"><span>{rate(now.rate)}</span><span class={now.failed > 0.01 ? "bad" : ""}>{now.failed === null ? "no traffic" : `${percent(now.failed)} failed`}</span><span>p95 {seconds(now.p95)}</span></span>
      );
    };
    return (
      <tr>
        <th scope="row"><a href={link("route", it.id)}>{it.id}</a><span class="soft">{[it.owner, it.group].filter(Boolean).join(" · ")}</span></th>
        <td data-label="Stage"><Stage stage={it.stage} /></td>
        <td data-label="Share"><ShareBar ppm={it.share_ppm} approved={it.approved_ppm} /></td>
        <td data-label="Legacy">{side("legacy")}</td>
        <td data-label="Serverless">{side("serverless")}</td>
        <td data-label="Parity">{it.parity ? <a href={link("differences", it.id)}>{parity(it)}</a> : DASH}<span class="soft">{it.parity ? `of ${it.parity.compared.toLocaleString("en")} compared` : "nothing compared"}</span></td>
        <td data-label="Health">{trouble.length ? trouble.map((word) => <Badge kind="bad">{word}</Badge>) : <Badge kind="good">well</Badge>}</td>
        <td data-label="Last change">{changed ? <>{changed.action}<span class="soft">{changed.actor}, {since(changed.at_unix_s)}</span></> : <span class="soft">none</span>}</td>
      </tr>
    );
  }
}

const said = (it, changed) => JSON.stringify([
  it.stage, it.share_ppm, it.approved_ppm, it.parity && [parity(it), it.parity.compared], troubles(it), changed && [changed.sequence, ago(Date.now() / 1000 - changed.at_unix_s)],
  ...["legacy", "serverless"].map((name) => [it[name], rate(it.now[name].rate), percent(it.now[name].failed), seconds(it.now[name].p95)]),
]);

const ORDERS = {
  name: (a, b) => a.id.localeCompare(b.id),
  trouble: (a, b) => troubles(b).length - troubles(a).length || a.id.localeCompare(b.id),
  traffic: (a, b) => b.now.legacy.rate + b.now.serverless.rate - a.now.legacy.rate - a.now.serverless.rate,
  share: (a, b) => b.share_ppm - a.share_ppm || a.id.localeCompare(b.id),
};

function Tiles() {
  const all = routes.value;
  const about = snapshot.value.revision;
  const sum = (side) => all.reduce((total, it) => total + it.now[side].rate, 0);
  const replicas = about.fleet?.replicas ?? [];
  const drift = replicas.filter((it) => it.rules_revision !== about.revision || it.state_revision !== about.state_revision);
  const tiles = [
    ["Routes", all.length, Object.entries(about.stages).filter(([, count]) => count).map(([name, count]) => `${count} ${name}`).join(", ")],
    ["Requests", rate(sum("legacy") + sum("serverless")), `${rate(sum("legacy"))} legacy, ${rate(sum("serverless"))} serverless`],
    ["In trouble", all.filter((it) => troubles(it).length).length, "routes"],
    ["Rules", about.last_reload_accepted ? "accepted" : "refused", about.last_reload_accepted ? `${since(about.accepted_at_unix_s)}, revision ${about.revision}` : "the last good ones serve"],
    ["Store", about.store.up ? "well" : "away", about.store.up ? about.store.kind : "nothing is raised"],
    ["Replicas", replicas.length || 1, replicas.length ? (drift.length ? `${drift.length} not as here: ${drift.map((it) => it.admin).join(", ")}` : "all as here") : "no fleet"],
  ];
  return <dl class="tiles">{tiles.map(([name, value, more]) => <div><dt>{name}</dt><dd><strong>{value}</strong> <span class="soft">{more}</span></dd></div>)}</dl>;
}

export function Overview() {
  const [words, setWords] = useState(""), [order, setOrder] = useState("name"), [whole, setWhole] = useState(false);
  const all = routes.value, changes = lastChanges.value;
  const found = useMemo(() => {
    const wanted = words.toLowerCase();
    return all.filter((it) => [it.id, it.owner, it.group, it.stage, it.legacy, it.serverless].some((text) => text?.toLowerCase().includes(wanted))).sort(ORDERS[order]);
  }, [all, words, order]);
  if (!snapshot.value) return <Page title="Overview"><Empty>Waiting for the first snapshot…</Empty></Page>;
  if (!snapshot.value.revision) return <Page title="Overview"><Empty>No valid rule set serves yet.</Empty></Page>;
  const shown = whole ? found : found.slice(0, ROWS);
  return (
    <Page title="Overview">
      <Tiles />
      <div class="filters">
        <label>Find<input type="search" value={words} onInput={(event) => setWords(event.target.value)} placeholder="route, owner, group, stage, backend" /></label>
        <label>Order<select value={order} onChange={(event) => setOrder(event.target.value)}><option value="name">by name</option><option value="trouble">trouble first</option><option value="traffic">by traffic</option><option value="share">by share</option></select></label>
        <span class="soft" role="status">{shown.length} of {all.length} routes</span>
        {shown.length < found.length && <button type="button" onClick={() => setWhole(true)}>Show all {found.length}</button>}
      </div>
      <table class="board">
        <caption class="hidden">All routes, of the last ten seconds</caption>
        <thead><tr>{HEAD.map((name) => <th scope="col">{name}</th>)}</tr></thead>
        <tbody>{shown.map((it) => <Row key={it.id} it={it} changed={changes.get(it.id)} text={said(it, changes.get(it.id))} />)}</tbody>
      </table>
      {!found.length && <Empty>No route is like that.</Empty>}
    </Page>
  );
}
