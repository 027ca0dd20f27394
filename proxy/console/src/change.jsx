// One change: what will happen (asked of the proxy as a dry run), the reason, the same as a command, and the confirmation.
import { useEffect, useState } from "preact/hooks";
import { post } from "./api.js";
import { count, share } from "./format.js";
import { Code, Dialog, Failed } from "./parts.jsx";
import { auditAgain, notice, snapshot } from "./state.js";

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// `{action, id}` of a route, `{action, scope}` of a kill switch.
function command({ action, id, scope, share }, reason) {
  const what = { share: `set-share ${id} ${share}`, kill: `kill ${scope ?? id}`, unkill: `unkill ${scope ?? id}` }[action] ?? `${action} ${id}`;
  return `banyan ${what} --admin ${location.origin} --reason ${quote(reason || "...")}`;
}

function request({ action, id, scope, share }) {
  const path = scope ? action : `routes/${encodeURIComponent(id)}/${action}`;
  return [path, { ...(scope && { scope }), ...(share && { share }) }];
}

const WORDS = {
  promote: "Raise the share to the next step", hold: "Hold the share where it is", resume: "Lift the hold", share: "Set the share", approve: "Approve the next step",
  rollback: "Roll back: everybody to legacy, until a person lifts it", kill: "Turn the kill switch on: legacy answers, at once", unkill: "Turn the kill switch off",
};
const DANGER = ["rollback", "kill"];

// Of what a dry run said.
function Effect({ told }) {
  const lines = [];
  if (told.before_share_ppm !== undefined) lines.push(`Share: ${share(told.before_share_ppm)} → ${share(told.after_share_ppm)}, on the next request.`);
  const traffic = told.traffic;
  if (traffic) lines.push(`Of the last hour's ${count(traffic.requests_last_hour)} requests, ${count(traffic.would_move)} would have gone to ${traffic.to} instead.`);
  if (told.after?.hold && !told.before?.hold) lines.push("It stays so until a person lifts the hold.");
  if (told.before?.hold && !told.after?.hold) lines.push("The hold is lifted; the ramp goes on by its gates.");
  if (told.action === "kill") lines.push("Legacy answers from the next request on, whatever rules, shares and pins say.");
  if (told.action === "unkill") lines.push("Shares and stages decide again, from the next request on.");
  if (told.action === "approve") lines.push("One person more has approved the next step that needs it.");
  return <ul>{(lines.length ? lines : ["Nothing that requests would notice."]).map((line) => <li>{line}</li>)}</ul>;
}

export function Change({ change, onClose }) {
  const [reason, setReason] = useState("");
  const [told, setTold] = useState({});
  const [failed, setFailed] = useState();
  const [busy, setBusy] = useState(false);
  // What is confirmed is what was shown: the state's revision of then goes with it.
  const [revision, setRevision] = useState(snapshot.value?.revision?.state_revision);
  const [path, body] = request(change);
  const wayBack = ["rollback", "kill"].includes(change.action);
  const look = () => post(path, { ...body, reason: "a look", dry_run: true }).then((value) => setTold({ value }), (error) => setTold({ error }));
  useEffect(() => { look(); }, []);
  const confirm = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      // A way back never waits for whoever else has changed something meanwhile.
      const guarded = !wayBack && change.action !== "unkill" && revision !== undefined;
      const done = await post(path, { ...body, reason, ...(guarded && { if_revision: revision }) });
      notice.value = { kind: done.kept ? "good" : "warn", text: `${WORDS[change.action]}: done${done.kept ? "" : ", and not kept yet: the store is away"} (${change.scope ?? change.id}).` };
      auditAgain();
      onClose();
    } catch (error) {
      setFailed(error);
      setBusy(false);
      if (error.status === 409 && !error.code) {
        setFailed(new Error("Somebody else, or the controller, has changed something meanwhile; above is what would happen now."));
        setRevision(error.revision);
        look();
      }
    }
  };
  return (
    <Dialog title={`${WORDS[change.action]} (${change.scope ?? change.id})`} onClose={onClose}>
      <form onSubmit={confirm}>
        <h3>What will happen</h3>
        {told.value && <Effect told={told.value} />}
        {told.error && <Failed error={told.error} />}
        {!told.value && !told.error && <p>Asking…</p>}
        <label>Reason, for the audit log
          <input name="reason" required maxLength={1000} value={reason} onInput={(event) => setReason(event.target.value)} autoComplete="off" />
        </label>
        <h3>The same as a command</h3>
        <Code text={command(change, reason)} label="Command" />
        <Failed error={failed} />
        <div class="buttons">
          <button type="button" onClick={onClose}>Cancel</button>
          <button type="submit" class={DANGER.includes(change.action) ? "danger" : "primary"} disabled={busy || (!!told.error && !wayBack) || !reason.trim()}>Confirm</button>
        </div>
      </form>
    </Dialog>
  );
}
