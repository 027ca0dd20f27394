// Small parts that pages are made of. Nothing is said by colour alone: every state has its word, and a sign.
import { useEffect, useRef, useState } from "preact/hooks";
import { share } from "./format.js";
import { notice } from "./state.js";

export function Page({ title, children, actions }) {
  const heading = useRef();
  useEffect(() => {
    document.title = `${title} · Banyan`;
    heading.current?.focus({ preventScroll: true });
  }, [title]);
  return (
    <main id="main">
      <div class="head"><h1 ref={heading} tabIndex={-1}>{title}</h1>{actions}</div>
      {children}
    </main>
  );
}

const SIGNS = { good: "✓", warn: "!", bad: "✕", quiet: "·", busy: "…" };
export const Badge = ({ kind = "quiet", children, title }) => <span class={`badge ${kind}`} title={title}><span aria-hidden="true">{SIGNS[kind]} </span>{children}</span>;

const STAGES = { legacy: "quiet", shadow: "quiet", canary: "busy", ramp: "busy", serverless: "good", retired: "good" };
export const Stage = ({ stage }) => <Badge kind={STAGES[stage]}>{stage}</Badge>;

// A share as a bar and as a number; the approved one as a tick.
export function ShareBar({ ppm, approved }) {
  return (
    <span class="share">
      <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
        <rect class="track" width="100" height="8" />
        <rect class="fill" width={ppm / 10_000} height="8" />
        {approved > 0 && approved < 1_000_000 && <rect class="tick" x={Math.min(99, approved / 10_000)} width="1" height="8" />}
      </svg>
      <span class="number">{share(ppm)}</span>
    </span>
  );
}

export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone(true);
      setTimeout(() => setDone(false), 2000);
    } catch {
      notice.value = { kind: "warn", text: "The browser does not let this page copy; select the text instead." };
    }
  };
  return <button type="button" class="small" onClick={copy}>{done ? "Copied" : label}</button>;
}

export const Code = ({ text, label }) => (
  <div class="code"><pre tabIndex={0} aria-label={label}>{text}</pre><Copy text={text} /></div>
);

export function Failed({ error }) {
  return error ? <p class="message bad" role="alert"><span aria-hidden="true">✕ </span>{error.message ?? String(error)}</p> : null;
}

export const Empty = ({ children }) => <p class="empty">{children}</p>;

// What is fetched once, and again when `key` changes or every `every` milliseconds.
export function useFetched(load, key, every) {
  const [state, setState] = useState({});
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let over = false;
    const one = () => load().then((value) => over || setState({ value }), (error) => over || setState((old) => ({ ...old, error })));
    one();
    const timer = every && setInterval(one, every);
    return () => { over = true; clearInterval(timer); };
  }, [key, turn]);
  return { ...state, again: () => setTurn((it) => it + 1) };
}

// A dialogue that takes the focus and gives it back; Escape closes it.
export function Dialog({ title, onClose, children }) {
  const it = useRef();
  useEffect(() => {
    const before = document.activeElement;
    it.current.showModal();
    return () => before?.focus?.();
  }, []);
  return (
    <dialog ref={it} aria-labelledby="dialog-title" onClose={onClose} onCancel={onClose}>
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

export const Table = ({ head, children, label, class: more = "" }) => (
  <div class="scroll" tabIndex={0} role="region" aria-label={label}>
    <table class={more}>
      <caption class="hidden">{label}</caption>
      <thead><tr>{head.map((name) => <th scope="col">{name}</th>)}</tr></thead>
      <tbody>{children}</tbody>
    </table>
  </div>
);
