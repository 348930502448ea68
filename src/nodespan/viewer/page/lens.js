// Where the time of a model call went, and what its prompt shared with earlier ones.

import { el } from "dom";
import { duration, integer, line, percent, rate, tokens } from "format";
import { DECODE, isPhase, KINDS, MODEL, PREFILL } from "kinds";

/**
 * @param {Tree} tree @param {number} row
 * @returns {{ kind: string, us: number }[]} Time by phase, in order; what no phase accounts for is "other".
 */
export function timeByPhase(tree, row) {
  const { trace, kinds } = tree;
  const now = trace.now();
  const length = trace.end(row, now) - /** @type {number} */ (trace.start[row]);
  /** @type {Map<number, number>} */
  const sums = new Map();
  for (const child of tree.spansBelow(row)) {
    const kind = kinds[child] ?? 0;
    if (isPhase(kind)) sums.set(kind, (sums.get(kind) ?? 0) + trace.end(child, now) - /** @type {number} */ (trace.start[child]));
  }
  const parts = [...sums].sort(([a], [b]) => a - b).map(([kind, us]) => ({ kind: KINDS[kind] ?? "other", us }));
  const known = parts.reduce((sum, part) => sum + part.us, 0);
  if (parts.length && length - known > length * 0.005) parts.push({ kind: "other", us: length - known });
  return parts;
}

/** @param {Tree} tree @param {number} row @param {SpanRecord | null} span @returns {HTMLElement | null} null for a span that is no model call. */
export function lens(tree, row, span) {
  if (tree.kinds[row] !== MODEL) return null;
  const attributes = span?.attributes ?? {};
  const parts = timeByPhase(tree, row);
  const facts = [...speeds(tree, row, parts), ...context(tree, row, attributes)];
  const prefix = prefixOf(attributes);
  if (!parts.length && !facts.length && !prefix) return null;
  return el("section", { class: "lens", "aria-label": "Model call" },
    el("h3", {}, "Where its time went"),
    parts.length ? stack(parts) : el("p", { class: "dim" }, "The engine reported no phases of this call."),
    facts.length ? el("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])) : null,
    prefix);
}

/** @param {{ kind: string, us: number }[]} parts */
function stack(parts) {
  const whole = parts.reduce((sum, part) => sum + part.us, 0);
  const text = parts.map((part) => `${part.kind} ${duration(part.us)}, ${percent(part.us, whole)}`).join("; ");
  const bar = el("div", { class: "stack", role: "img", "aria-label": text });
  for (const part of parts) {
    const piece = el("span", { class: `kind-${part.kind}` });
    piece.style.flexGrow = String(Math.max(part.us / whole, 0.004));
    bar.append(piece);
  }
  const rows = parts.map((part) => el("li", { class: `kind-${part.kind}` },
    el("span", { class: "dot", "aria-hidden": "true" }), el("span", {}, part.kind), el("b", {}, duration(part.us)), el("span", { class: "dim" }, percent(part.us, whole))));
  return el("div", {}, bar, el("ul", { class: "parts" }, ...rows));
}

/** @param {Tree} tree @param {number} row @param {{ kind: string, us: number }[]} parts @returns {[string, string][]} */
function speeds(tree, row, parts) {
  const { trace } = tree;
  const seconds = (/** @type {number} */ kind) => (parts.find((part) => part.kind === KINDS[kind])?.us ?? 0) / 1e6;
  const [input, output, cached] = [trace.tokens_in[row] ?? -1, trace.tokens_out[row] ?? -1, trace.cached[row] ?? -1];
  /** @type {[string, string][]} */
  const facts = [];
  if (input >= 0) facts.push(["Prompt", `${tokens(input)} tokens${cached > 0 ? `, ${percent(cached, input)} from the cache` : ""}`]);
  if (seconds(PREFILL) > 0 && input > 0) facts.push(["Prefill", rate((input - Math.max(cached, 0)) / seconds(PREFILL))]);
  if (output >= 0) facts.push(["Answer", `${tokens(output)} tokens`]);
  if (seconds(DECODE) > 0 && output > 1) facts.push(["Decode", rate((output - 1) / seconds(DECODE))]);
  return facts;
}

/** @param {Tree} tree @param {number} row @param {Record<string, unknown>} attributes @returns {[string, string][]} */
function context(tree, row, attributes) {
  const size = Number(attributes["nodespan.context_size"] ?? attributes["nodespan.n_ctx"]);
  const used = Math.max(tree.trace.tokens_in[row] ?? 0, 0) + Math.max(tree.trace.tokens_out[row] ?? 0, 0);
  if (!(size > 0) || !used) return [];
  return [["Context", `${integer(used)} of ${integer(size)} tokens, ${percent(size - used, size)} free`]];
}

/** @param {Record<string, unknown>} attributes @returns {HTMLElement | null} What the prompt shared with the call before. */
function prefixOf(attributes) {
  const entries = Object.entries(attributes).filter(([name]) => name.startsWith("nodespan.prefix"));
  if (!entries.length) return null;
  return el("div", { class: "prefix" }, el("h3", {}, "Prompt prefix"),
    el("dl", { class: "facts" }, ...entries.flatMap(([name, value]) => [
      el("dt", {}, line(name.replace(/^nodespan\.prefix[._]/, "").replace(/[._]/g, " "))), el("dd", {}, line(String(value)))])));
}
