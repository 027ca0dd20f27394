// The way out: who may reach what by which rule, and how many connections that takes.
import { get } from "../api.js";
import { DASH, bytes, count, percent, seconds } from "../format.js";
import { Badge, Empty, Failed, Page, Table, useFetched } from "../parts.jsx";

const list = (values) => (values.length ? values.join(", ") : DASH);

export function Egress() {
  const { value, error } = useFetched(() => Promise.all([get("egress"), get("backends")]), "", 2000);
  const [rules, backends] = [value?.[0].rules ?? [], value?.[1].backends ?? []];
  const callers = ({ vpce, cidr, client_cert, plan }) => [...vpce, ...cidr, ...client_cert, ...plan.map((name) => `plan ${name}`)];
  return (
    <Page title="Egress">
      <Failed error={error} />
      <section aria-labelledby="rules"><h2 id="rules">Rules</h2>
        {rules.length > 0 && (
          <Table head={["Rule", "Listener", "Callers", "To", "Ports", "Connections", "Waiting", "Longest wait", "Made", "Up, down"]} label="Egress rules">
            {rules.map((it) => <tr key={it.id}><th scope="row">{it.id}</th><td>{it.listener}</td><td>{list(callers(it.callers))}</td><td>{list(it.to)}</td><td>{it.ports.join(", ")}</td><td>{it.connections ? `${it.connections.in_use} of ${it.connections.max}` : "no cap"}</td><td>{it.connections?.queued ?? DASH}</td><td>{seconds(it.connections?.longest_wait_seconds)}</td><td>{count(it.connections_total)}</td><td>{bytes(it.bytes.up)}, {bytes(it.bytes.down)}</td></tr>)}
          </Table>
        )}
        {value && !rules.length && <Empty>No egress rules: nothing goes out by CONNECT or TCP, and routes lead anywhere their backends say.</Empty>}
      </section>
      <section aria-labelledby="backends"><h2 id="backends">Backends</h2>
        <Table head={["Backend", "Kind", "State", "Healthy", "Breaker", "Addresses"]} label="Backends">
          {backends.map((it) => <tr key={it.id}><th scope="row">{it.id}</th><td>{it.function ? `function ${it.function}` : it.kind}</td><td>{it.available ? <Badge kind="good">available</Badge> : <Badge kind="bad">unavailable{it.unavailable_cause ? `: ${it.unavailable_cause}` : ""}</Badge>}</td><td>{it.checked ? percent(it.health_ratio, 0) : "not checked"}</td><td>{it.breaker ? <Badge kind={it.breaker.state === "closed" ? "good" : "bad"}>{it.breaker.state}{it.breaker.held ? ", held" : ""}</Badge> : DASH}</td><td>{it.endpoints.map((end) => <span class="address">{end.authority}{end.healthy ? "" : " (unhealthy)"}{end.ejected ? " (left out)" : ""}</span>)}</td></tr>)}
        </Table>
      </section>
    </Page>
  );
}
