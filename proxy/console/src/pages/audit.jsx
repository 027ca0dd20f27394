// Every change beside the rules, the newest first, and whether the chain of their hashes is whole.
import { useState } from "preact/hooks";
import { get } from "../api.js";
import { share, time } from "../format.js";
import { Badge, Empty, Failed, Page, Table, useFetched } from "../parts.jsx";
import { snapshot } from "../state.js";

export function Audit() {
  const [words, setWords] = useState("");
  const about = snapshot.value?.revision;
  const { value, error } = useFetched(() => get("audit"), `${about?.state_revision} ${about?.kill}`);
  const shown = (value?.entries ?? []).filter((it) => [it.actor, it.action, it.scope, it.reason].join(" ").toLowerCase().includes(words.toLowerCase())).reverse();
  const moved = (it) => (it.before || it.after ? `${share(it.before?.share_ppm ?? 0)} → ${share(it.after?.share_ppm ?? 0)}` : "");
  return (
    <Page title="Audit" actions={value && (value.verified ? <Badge kind="good">chain is whole</Badge> : <Badge kind="bad">chain is broken at entry {value.broken_at}</Badge>)}>
      <p class="soft">Each entry holds the hash of the one before it; an entry that was changed, taken out or put in breaks the chain there.</p>
      <div class="filters"><label>Find<input type="search" value={words} onInput={(event) => setWords(event.target.value)} placeholder="actor, action, route, reason" /></label><span class="soft" role="status">{shown.length} of {value?.entries.length ?? 0}</span></div>
      <Failed error={error} />
      {shown.length > 0 && (
        <Table head={["#", "When", "Who", "What", "Of", "Share", "Reason", "Revision", "Hash"]} label="Changes">
          {shown.map((it) => <tr key={it.sequence}><td>{it.sequence}</td><td>{time(it.at_unix_s)}</td><td>{it.actor}</td><td>{it.action}</td><th scope="row">{it.scope}</th><td>{moved(it)}</td><td>{it.reason}</td><td>{it.revision_before} → {it.revision_after}</td><td><code title={it.hash}>{it.hash.slice(0, 12)}</code></td></tr>)}
        </Table>
      )}
      {value && !value.entries.length && <Empty>Nothing has been changed beside the rules.</Empty>}
    </Page>
  );
}
