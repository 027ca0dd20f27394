// Where a request would go, and why: the same code that decides, asked by hand.
import { useState } from "preact/hooks";
import { post } from "../api.js";
import { share } from "../format.js";
import { Badge, Failed, Page, Table } from "../parts.jsx";
import { link, place } from "../state.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

function Told({ it }) {
  const rows = [
    ["Route", it.route && <a href={link("route", it.route)}>{it.route}</a>], ["Answered by Banyan itself", it.status], ["Why", it.why], ["Stage", it.stage], ["Cohort", it.cohort], ["Key from", it.key],
    ["Bucket", it.bucket], ["Share", it.share_ppm === undefined ? undefined : share(it.share_ppm)], ["Arithmetic", it.arithmetic && <code>{it.arithmetic}</code>], ["Side", it.side && <Badge kind="good">{it.side}</Badge>],
    ["Reason", it.reason], ["Backend", it.backend], ["Path sent", it.path_sent && <code>{it.path_sent}</code>], ["Revision", <code>{it.revision}</code>],
  ];
  return (
    <section aria-labelledby="told">
      <h2 id="told">Where it goes</h2>
      <dl class="facts">{rows.filter(([, text]) => text !== undefined && text !== null).map(([name, text]) => <div><dt>{name}</dt><dd>{text}</dd></div>)}</dl>
      {it.lost?.length > 0 && <details><summary>Why the other {it.lost.length} routes did not get it</summary><Table head={["Route", "Why not"]} label="Routes that lost">{it.lost.map((other) => <tr><th scope="row">{other.route}</th><td>{other.why}</td></tr>)}</Table></details>}
    </section>
  );
}

export function Explain() {
  const asked = place.value.query;
  const [method, setMethod] = useState(asked.get("method") ?? "GET"), [url, setUrl] = useState(asked.get("url") ?? ""), [headers, setHeaders] = useState(""), [address, setAddress] = useState("");
  const [told, setTold] = useState({});
  const ask = async (event) => {
    event.preventDefault();
    const lines = headers.split("\n").map((line) => line.trim()).filter(Boolean);
    const odd = lines.find((line) => !line.includes(":"));
    if (odd) return setTold({ error: new Error(`“${odd}” is no header; expected Name: value`) });
    const named = Object.fromEntries(lines.map((line) => { const at = line.indexOf(":"); return [line.slice(0, at).trim(), line.slice(at + 1).trim()]; }));
    try {
      setTold({ value: await post("explain", { method, url, ...(lines.length && { headers: named }), ...(address && { client_ip: address }) }) });
    } catch (error) {
      setTold({ error });
    }
  };
  return (
    <Page title="Explain">
      <form class="wide" onSubmit={ask}>
        <label>Method<select name="method" value={method} onChange={(event) => setMethod(event.target.value)}>{METHODS.map((name) => <option>{name}</option>)}</select></label>
        <label class="grow">URL<input name="url" type="url" required value={url} onInput={(event) => setUrl(event.target.value)} placeholder="https://shop.example.com/orders/42" /></label>
        <label>Client address<input name="address" value={address} onInput={(event) => setAddress(event.target.value)} placeholder="any" /></label>
        <label class="whole">Headers, one a line<textarea name="headers" rows={3} value={headers} onInput={(event) => setHeaders(event.target.value)} placeholder="Cookie: SESSIONID=abc" /></label>
        <button type="submit" class="primary">Explain</button>
      </form>
      <Failed error={told.error} />
      {told.value && <Told it={told.value} />}
    </Page>
  );
}
