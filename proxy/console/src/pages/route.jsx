// One route: its life, how both sides have done, what its gates say, and what can be done about it.
import { useState } from "preact/hooks";
import { get, me } from "../api.js";
import { Chart } from "../chart.jsx";
import { DASH, count, percent, rate, seconds, share, since, time, troubles } from "../format.js";
import { Badge, Code, Empty, Failed, Page, ShareBar, Stage, Table, useFetched } from "../parts.jsx";
import { lastChanges, link, may, route as live, snapshot } from "../state.js";

const STAGES = ["legacy", "shadow", "canary", "ramp", "serverless", "retired"];

// The stages in their order, and the steps of the ramp within.
function LifeLine({ it, steps }) {
  const at = STAGES.indexOf(it.stage);
  const ppm = (step) => Math.round(parseFloat(typeof step === "string" ? step : step.at) * 10_000);
  return (
    <ol class="life" aria-label="Life of the route">
      {STAGES.map((stage, number) => (
        <li class={number < at ? "past" : number === at ? "here" : ""} aria-current={number === at ? "step" : undefined}>
          <span class="dot" aria-hidden="true">{number < at ? "✓" : number === at ? "●" : "○"}</span> {stage}
          {stage === "ramp" && steps?.length > 0 && (
            <ol aria-label="Steps">{steps.map((step) => {
              const reached = at > 3 || (at === 3 && it.share_ppm >= ppm(step));
              return <li class={reached ? "past" : ""}><span aria-hidden="true">{reached ? "✓" : "○"}</span> {share(ppm(step))}{step.approve ? ` (${step.approve} to approve)` : ""}</li>;
            })}</ol>
          )}
        </li>
      ))}
    </ol>
  );
}

function Gates({ it }) {
  const state = it.state;
  return (
    <section aria-labelledby="gates">
      <h2 id="gates">Gates</h2>
      {state?.hold && <p class="message warn"><strong>{state.rolled_back ? "Rolled back" : "Held"}</strong> by {state.hold.actor}, {since(state.hold.at_unix_s)}: {state.hold.reason}</p>}
      {it.gate ? (
        <>
          <p>The controller says: <Badge kind={{ advance: "good", hold: "warn", roll_back: "bad" }[it.gate.verdict]}>{it.gate.verdict.replace("_", " ")}</Badge></p>
          {it.gate.reasons.length > 0 && <Table head={["Gate", "Why"]} label="What the gates say">{it.gate.reasons.map((reason) => <tr><th scope="row">{reason.gate}</th><td>{reason.text}</td></tr>)}</Table>}
        </>
      ) : <Empty>{it.stage === "ramp" ? "This ramp moves by hand." : "Only a ramp has gates."}</Empty>}
    </section>
  );
}

function Controls({ it, onChange }) {
  const [to, setTo] = useState("");
  const [asked, setAsked] = useState();
  if (!me.value) return null;
  if (!may.value.change) return <section aria-labelledby="controls"><h2 id="controls">Controls</h2><p class="message warn">Your role, {me.value.role}, may look and not change anything.</p></section>;
  const ramp = it.stage === "ramp", id = it.id;
  const moves = ["canary", "ramp", "serverless"].includes(it.stage);
  const button = (action, title, kind, enabled = true, why) => <button type="button" class={kind} disabled={!enabled} title={enabled ? undefined : why} onClick={() => onChange({ action, id })}>{title}…</button>;
  const setShare = (event) => {
    event.preventDefault();
    const value = parseFloat(to);
    if (!(value >= 0 && value <= 100)) return setAsked("Expected a number from 0 to 100.");
    setAsked(undefined);
    onChange({ action: "share", id, share: `${value}%` });
  };
  return (
    <section aria-labelledby="controls">
      <h2 id="controls">Controls</h2>
      <div class="buttons">
        {button("promote", "Promote", "primary", ramp, "only a ramp has steps")}
        {button("approve", "Approve", "", ramp, "only a ramp has steps")}
        {it.state?.hold ? button("resume", "Resume", "") : button("hold", "Hold", "", ramp, "only a ramp can be held")}
        {button("rollback", "Roll back", "danger", moves && !it.state?.rolled_back, "nothing is on serverless")}
        {it.killed ? button("unkill", "Turn kill off", "") : button("kill", "Kill", "danger")}
      </div>
      {ramp && (
        <form class="inline" onSubmit={setShare}>
          <label>Share in percent<input inputMode="decimal" name="share" value={to} onInput={(event) => setTo(event.target.value)} aria-describedby="share-odd" /></label>
          <button type="submit">Set…</button>
          <span id="share-odd" class="bad" role="alert">{asked}</span>
        </form>
      )}
    </section>
  );
}

function Evidence({ id, it }) {
  const { value, error } = useFetched(() => get(`evidence/${encodeURIComponent(id)}`), id, 5000);
  if (error && !value) return <Failed error={error} />;
  if (!value || !value.eligible) return <section aria-labelledby="evidence"><h2 id="evidence">Evidence</h2><Empty>Nothing was compared: the route has no shadow, or no traffic yet.</Empty></section>;
  const quantile = ({ legacy_seconds, serverless_seconds, ratio, ratio_low, ratio_high } = {}) => [seconds(legacy_seconds), seconds(serverless_seconds), ratio === undefined ? DASH : `${ratio.toFixed(2)} ×`, ratio_low === undefined ? DASH : `${ratio_low.toFixed(2)} to ${ratio_high?.toFixed(2)}`];
  const rows = [
    ["Eligible, sampled", `${count(value.eligible)}, ${count(value.sampled)}`], ["Compared", count(value.compared)], ["Differ", count(value.mismatched)],
    ["At most so many differ", `${percent(value.parity_upper_bound, 3)} (one look), ${percent(value.parity_upper_bound_anytime, 3)} (looking all the time), at ${percent(value.confidence, 0)}`],
    ["Coverage", percent(value.coverage)], ["Dropped", `${count(value.dropped)}${value.dropped ? `: ${Object.entries(value.dropped_by).map(([cause, n]) => `${n} ${cause}`).join(", ")}` : ""}`],
    ["Inconclusive", count(value.inconclusive)], ["Distinct requests", count(value.distinct_requests)], ["Controls", count(value.controls)], ["Cold starts", count(value.latency.cold_starts)],
  ];
  return (
    <section aria-labelledby="evidence">
      <h2 id="evidence">Evidence</h2>
      <dl class="facts">{rows.map(([name, text]) => <div><dt>{name}</dt><dd>{text}</dd></div>)}</dl>
      <Table head={["Latency of the same requests", "Legacy", "Serverless", "Ratio", "Between"]} label="Latency of both sides">
        {["p50", "p99"].map((name) => <tr><th scope="row">{name}</th>{quantile(value.latency[name]).map((text) => <td>{text}</td>)}</tr>)}
      </Table>
      {it.parity?.mismatched > 0 && <p><a href={link("differences", id)}>The differences</a></p>}
    </section>
  );
}

export function Route({ id, onChange }) {
  const it = live(id);
  const { value: whole, error } = useFetched(() => get(`routes/${encodeURIComponent(id)}`), `${id} ${snapshot.value?.revision?.revision}`);
  const { value: past } = useFetched(() => get(`history/${encodeURIComponent(id)}`), id, 10_000);
  if (error) return <Page title={id}><Failed error={error} /><p><a href={link("overview")}>Overview</a></p></Page>;
  if (!it) return <Page title={id}><Empty>{snapshot.value ? "No such route is served." : "Waiting for the first snapshot…"}</Empty></Page>;
  const points = past?.points ?? [], trouble = troubles(it), changed = lastChanges.value.get(id);
  const now = (side) => it.now[side];
  return (
    <Page title={id} actions={<><Stage stage={it.stage} />{trouble.map((word) => <Badge kind="bad">{word}</Badge>)}</>}>
      <p class="soft">{[it.owner && `owner ${it.owner}`, it.group && `group ${it.group}`, it.cohort && `cohort ${it.cohort}`, whole?.file && `in ${whole.file}`].filter(Boolean).join(" · ")}{changed && ` · last change: ${changed.action} by ${changed.actor}, ${since(changed.at_unix_s)} (${changed.reason})`}</p>
      <LifeLine it={it} steps={whole?.rule?.ramp?.steps} />
      <p class="now">On serverless: <ShareBar ppm={it.share_ppm} approved={it.approved_ppm} /></p>
      <Table head={["Last ten seconds", "Backend", "Rate", "Failed", "p50", "p95"]} label="Both sides just now">
        {["legacy", "serverless"].map((side) => <tr><th scope="row">{side}</th><td>{it[side] ?? "none"}</td><td>{rate(now(side).rate)}</td><td>{percent(now(side).failed)}</td><td>{seconds(now(side).p50)}</td><td>{seconds(now(side).p95)}</td></tr>)}
      </Table>
      <div class="charts">
        <Chart title="Rate" points={points} pick={(side) => side.rate} format={rate} />
        <Chart title="Failed" points={points} pick={(side) => side.failed} format={percent} />
        <Chart title="p95" points={points} pick={(side) => side.p95} format={seconds} />
      </div>
      <div class="columns"><Gates it={it} /><Controls it={it} onChange={onChange} /></div>
      <Evidence id={id} it={it} />
      {whole?.functions?.length > 0 && (
        <section aria-labelledby="functions"><h2 id="functions">Functions</h2>
          <Table head={["Function", "Side", "Reports", "Cold starts", "Billed, mean", "Memory used of configured", "Per million requests"]} label="What functions cost">
            {whole.functions.map((fn) => <tr><th scope="row">{fn.function}</th><td>{fn.side}</td><td>{count(fn.reports)}</td><td>{count(fn.cold_starts)}</td><td>{seconds(fn.billed_seconds_mean)}</td><td>{fn.memory_used_mb ?? DASH} of {fn.memory_configured_mb ?? DASH} MB</td><td>{fn.cost_per_million_requests?.toFixed(2) ?? DASH}{fn.hint ? ` (${fn.hint})` : ""}</td></tr>)}
          </Table>
        </section>
      )}
      {whole && <details><summary>The rule, as JSON</summary><Code text={JSON.stringify(whole.rule, null, 2)} label="Rule" /></details>}
      {it.silence && <p class="soft">Legacy has been silent for {seconds(it.silence.quiet_seconds)} of {seconds(it.silence.needed_seconds)}; last request {time(it.silence.last_legacy_unix_s)}.</p>}
    </Page>
  );
}
