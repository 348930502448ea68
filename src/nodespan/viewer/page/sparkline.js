// Durations and decode rates of the listed runs, oldest to newest, as small charts.

import { el, svg } from "dom";
import { duration, rate } from "format";

const WIDTH = 220, HEIGHT = 36;

/** @param {TraceRecord[]} traces Newest first. @returns {HTMLElement[]} */
export function sparklines(traces) {
  const ended = traces.filter((trace) => trace.state === "ended").reverse();
  const durations = ended.map((trace) => trace.duration_s * 1e6);
  const rates = ended.filter((trace) => trace.decode_s && trace.tokens_out).map((trace) => Number(trace.tokens_out) / Number(trace.decode_s));
  return [chart("Duration", durations, duration), chart("Decode", rates, rate)].filter((each) => each !== null);
}

/** @param {string} name @param {number[]} values @param {(value: number) => string} text @returns {HTMLElement | null} */
function chart(name, values, text) {
  if (values.length < 2) return null;
  const middle = median(values);
  const label = `${name} of ${values.length} runs: median ${text(middle)}, last ${text(values.at(-1) ?? 0)}`;
  const top = Math.max(...values);
  const x = (/** @type {number} */ i) => 3 + (i / (values.length - 1)) * (WIDTH - 6);
  const y = (/** @type {number} */ value) => HEIGHT - 3 - (top > 0 ? value / top : 0) * (HEIGHT - 6);
  const points = values.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return el("figure", { class: "trend" },
    el("figcaption", {}, `${name} `, el("b", {}, text(middle)), el("span", { class: "dim" }, " median")),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": label },
      svg("line", { class: "middle", x1: 0, x2: WIDTH, y1: y(middle), y2: y(middle) }),
      svg("polyline", { points }),
      svg("circle", { cx: x(values.length - 1), cy: y(values.at(-1) ?? 0), r: 2.5 })));
}

/** @param {number[]} values @returns {number} */
export function median(values) {
  const ordered = [...values].sort((a, b) => a - b);
  const middle = Math.floor(ordered.length / 2);
  const [a, b] = [ordered[middle] ?? 0, ordered[middle - 1] ?? 0];
  return ordered.length % 2 ? a : (a + b) / 2;
}
