// What no route claims, as templates, with the rule each would need.
import { get } from "../api.js";
import { count } from "../format.js";
import { Code, Empty, Failed, Page, useFetched } from "../parts.jsx";

export function Discovery() {
  const { value, error } = useFetched(() => get("unclaimed"), "", 5000);
  const templates = value?.templates ?? [];
  return (
    <Page title="Discovery">
      <p>Requests that no route claims{value && <>: {count(value.seen)} seen{value.not_kept ? `, ${count(value.not_kept)} of them beyond what is kept` : ""}</>}. Segments that look like ids are names in braces.</p>
      <Failed error={error} />
      {templates.map((it) => (
        <details class="cluster" key={`${it.host}${it.path}`}>
          <summary><code>{it.methods.join(", ")} {it.host}{it.path}</code> <span class="soft">{count(it.requests)} requests</span></summary>
          <Code text={it.rule} label={`Rule for ${it.path}`} />
        </details>
      ))}
      {value && !templates.length && <Empty>Every request has found a route.</Empty>}
    </Page>
  );
}
