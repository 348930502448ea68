// Groups among the children of one span: iterations of a loop, and repeats of one name. Pure.

import { NODE } from "kinds";

export const FOLD_MIN = 6;

/**
 * @typedef {object} Group
 * @property {"iteration" | "fold"} kind
 * @property {string} label
 * @property {string} key Stays the same while the trace grows.
 * @property {number[]} members Rows, and indexes of groups in this one.
 * @property {number} count
 * @property {number} siblings Iterations of the loop that it belongs to.
 */

/**
 * @param {Trace} trace @param {Uint8Array} kinds @param {number[]} children Rows by start.
 * @param {string} parentKey
 * @param {(group: Group) => number} add Gives a group its index among the tree's nodes.
 * @returns {number[]} Rows and groups.
 */
export function grouped(trace, kinds, children, parentKey, add) {
  const loop = iterations(trace, kinds, children);
  if (!loop) return folded(trace, children, parentKey, add);
  const { before, rounds, after } = loop;
  const result = folded(trace, before, parentKey, add);
  rounds.forEach((members, i) => {
    const key = `${parentKey}/iteration ${i + 1}`;
    const inner = folded(trace, members, key, add);
    result.push(add({ kind: "iteration", label: label(trace, kinds, members, i + 1), key, members: inner, count: members.length, siblings: rounds.length }));
  });
  return result.concat(folded(trace, after, `${parentKey}/after`, add));
}

/**
 * Cut the executions of a run into iterations: each begins with another execution, in a later step, of the first node
 * that is executed again.
 * @param {Trace} trace @param {Uint8Array} kinds @param {number[]} children
 * @returns {{ before: number[], rounds: number[][], after: number[] } | null} null without a loop.
 */
export function iterations(trace, kinds, children) {
  const head = headOf(trace, kinds, children);
  if (head < 0) return null;
  /** @type {number[]} */
  const before = [];
  /** @type {number[][]} */
  const rounds = [];
  let step = -1;
  for (const row of children) {
    const rowStep = /** @type {number} */ (trace.step[row]);
    if (kinds[row] === NODE && trace.node[row] === head && rowStep !== step) {
      step = rowStep;
      rounds.push([]);
    }
    (rounds.at(-1) ?? before).push(row);
  }
  return { before, rounds, after: tail(trace, kinds, rounds) };
}

/** @param {Trace} trace @param {Uint8Array} kinds @param {number[]} children @returns {number} Its name's index, or -1. */
function headOf(trace, kinds, children) {
  /** @type {Map<number, number>} */
  const first = new Map();
  const again = new Set();
  for (const row of children) {
    const step = /** @type {number} */ (trace.step[row]);
    if (kinds[row] !== NODE || step < 0) continue;
    const node = /** @type {number} */ (trace.node[row]);
    const known = first.get(node);
    if (known === undefined) first.set(node, step);
    else if (known !== step) again.add(node);
  }
  for (const node of first.keys()) if (again.has(node)) return node;
  return -1;
}

/**
 * Remove executions after the loop from its last iteration.
 * @param {Trace} trace @param {Uint8Array} kinds @param {number[][]} rounds @returns {number[]}
 */
function tail(trace, kinds, rounds) {
  const last = rounds.at(-1) ?? [];
  const looping = new Set(rounds.slice(0, -1).flat().map((row) => trace.node[row]));
  let end = last.length;
  while (end > 1) {
    const row = /** @type {number} */ (last[end - 1]);
    if (kinds[row] === NODE && looping.has(trace.node[row])) break;
    end--;
  }
  // Without another node of the loop after them they may as well belong to the last iteration's first node.
  return last.splice(end);
}

/** @param {Trace} trace @param {Uint8Array} kinds @param {number[]} members @param {number} number @returns {string} */
function label(trace, kinds, members, number) {
  /** @type {string[]} */
  const names = [];
  for (const row of members) {
    const name = trace.text("node", row);
    if (kinds[row] === NODE && !names.includes(name)) names.push(name);
  }
  const shown = names.slice(0, 4).join(" → ") + (names.length > 4 ? " → …" : "");
  return `iteration ${number} · ${shown}`;
}

/**
 * @param {Trace} trace @param {number[]} children @param {string} parentKey @param {(group: Group) => number} add
 * @returns {number[]}
 */
function folded(trace, children, parentKey, add) {
  if (children.length < FOLD_MIN) return children;
  /** @type {Map<number, number[]>} */
  const byName = new Map();
  for (const row of children) {
    const name = /** @type {number} */ (trace.name[row]);
    const rows = byName.get(name);
    if (rows) rows.push(row);
    else byName.set(name, [row]);
  }
  /** @type {number[]} */
  const result = [];
  for (const row of children) {
    const rows = /** @type {number[]} */ (byName.get(/** @type {number} */ (trace.name[row])));
    if (rows.length < FOLD_MIN) result.push(row);
    else if (rows[0] === row) {
      const name = trace.text("name", row);
      result.push(add({ kind: "fold", label: name, key: `${parentKey}/${name}`, members: rows, count: rows.length, siblings: 0 }));
    }
  }
  return result;
}
