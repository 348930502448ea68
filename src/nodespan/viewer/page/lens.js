// The phases of a model call, and the prefixes that its prompt shares with earlier ones.

import { el } from "dom";
import { duration, integer, line, percent, rate, tokens } from "format";
import { nodeAround } from "trace";
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
  const prefix = prefixOf(tree, row, attributes);
  if (!parts.length && !facts.length && !prefix) return null;
  return el("section", { class: "lens", "aria-label": "Model call" },
    el("h3", {}, "Where its time went"),
    parts.length ? stack(parts) : el("p", { class: "dim" }, "The engine reported no phases of this call."),
    facts.length ? definitions(facts) : null,
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
  const size = Number(attributes["nodespan.context_size"]);
  const used = Math.max(tree.trace.tokens_in[row] ?? 0, 0) + Math.max(tree.trace.tokens_out[row] ?? 0, 0);
  if (!(size > 0) || !used) return [];
  return [["Context", `${integer(used)} of ${integer(size)} tokens, ${percent(size - used, size)} free`]];
}

/**
 * The prefix shared with the previous call, from `nodespan.prefix.*`.
 * @param {Tree} tree @param {number} row @param {Record<string, unknown>} attributes @returns {HTMLElement | null}
 */
function prefixOf(tree, row, attributes) {
  const number = (/** @type {string} */ name) => {
    const value = attributes[`nodespan.prefix.${name}`];
    return typeof value === "number" ? value : -1;
  };
  const shared = number("shared_tokens");
  if (shared < 0) return null;
  const [repeated, cost, input] = [number("repeated_tokens"), number("cost_s"), tree.trace.tokens_in[row] ?? -1];
  const previous = attributes["nodespan.prefix.previous_node"];
  /** @type {[string, string][]} */
  const facts = [["Shared", `${integer(shared)}${input > 0 ? ` of ${integer(input)} tokens, ${percent(shared, input)}` : " tokens"}`]];
  if (previous) facts.push(["With the call of", line(String(previous))]);
  if (repeated >= 0) facts.push(["Discarded", `${integer(repeated)} tokens of the context`]);
  if (cost >= 0) facts.push(["Prefill of the rest", duration(cost * 1e6)]);
  return el("div", { class: "prefix" }, el("h3", {}, "Prompt prefix"), definitions(facts), matrixOf(tree));
}

/** @param {[string, string][]} facts */
function definitions(facts) {
  return el("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

/**
 * The share of each node's prompt that was in the context, by the node that used the model before it.
 * @param {Tree} tree @returns {Map<string, Map<string, { shared: number, input: number }>>} By node, then by previous node.
 */
export function prefixMatrix(tree) {
  const { trace } = tree;
  /** @type {Map<string, Map<string, { shared: number, input: number }>>} */
  const matrix = new Map();
  for (const [row, prefix] of trace.prefixes) {
    const node = nodeAround(trace, row);
    const cells = matrix.get(node) ?? new Map();
    matrix.set(node, cells);
    const cell = cells.get(prefix.previous_node ?? "") ?? { shared: 0, input: 0 };
    cell.shared += prefix.shared;
    cell.input += Math.max(trace.tokens_in[row] ?? 0, 0);
    cells.set(prefix.previous_node ?? "", cell);
  }
  return matrix;
}

/** @param {Tree} tree @returns {HTMLElement | null} */
function matrixOf(tree) {
  const matrix = prefixMatrix(tree);
  if (matrix.size < 2) return null;
  const before = [...new Set([...matrix.values()].flatMap((cells) => [...cells.keys()]))];
  const name = (/** @type {string} */ node) => line(node) || "–";
  return el("details", { class: "matrix" }, el("summary", {}, "All nodes of the run"),
    el("table", {}, el("caption", { class: "dim" }, "Part of the prompt that was in the context; a row for each node, a column for the node before it"),
      el("thead", {}, el("tr", {}, el("td", {}), ...before.map((node) => el("th", { scope: "col" }, name(node))))),
      el("tbody", {}, ...[...matrix].map(([node, cells]) => el("tr", {}, el("th", { scope: "row" }, name(node)), ...before.map((previous) => {
        const cell = cells.get(previous);
        return el("td", {}, cell ? percent(cell.shared, cell.input) : "");
      }))))));
}
