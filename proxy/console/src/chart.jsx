// Both sides of one figure over the last half hour. The canvas says in words what it shows last.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { theme } from "./state.js";

export function Chart({ title, points, pick, format }) {
  const box = useRef(), plot = useRef();
  const data = [points.map((it) => it.at_unix_s), points.map((it) => pick(it.legacy) ?? null), points.map((it) => pick(it.serverless) ?? null)];
  const shade = theme.value;
  useEffect(() => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    plot.current = new uPlot({
      width: box.current.clientWidth || 300,
      height: 170,
      legend: { show: false },
      cursor: { show: false },
      series: [{}, { label: "legacy", stroke: colour("--legacy"), width: 2, dash: [6, 4], spanGaps: false }, { label: "serverless", stroke: colour("--serverless"), width: 2 }],
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toTimeString().slice(0, 5)) }, { ...axis, size: 64, values: (_, ticks) => ticks.map((it) => format(it)) }],
      scales: { y: { range: (_, least, most) => [0, most > 0 ? most * 1.1 : 1] } },
    }, data, box.current);
    const resize = new ResizeObserver(() => box.current && plot.current?.setSize({ width: box.current.clientWidth, height: 170 }));
    resize.observe(box.current);
    return () => { resize.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [shade]);
  useEffect(() => { plot.current?.setData(data); }, [points]);
  const last = points.at(-1);
  const words = last ? `legacy ${format(pick(last.legacy))}, serverless ${format(pick(last.serverless))}` : "nothing yet";
  return (
    <figure class="chart">
      <figcaption>{title} <span class="keys"><span class="legacy">┅ legacy</span> <span class="serverless">━ serverless</span></span></figcaption>
      <div ref={box} role="img" aria-label={`${title} over the last half hour; last: ${words}`} />
    </figure>
  );
}
