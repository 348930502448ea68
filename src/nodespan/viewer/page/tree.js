// Nesting and order of a trace's rows: spans and groups as one forest, in typed arrays, made once per change.

import { FLAG } from "trace";
import { grouped } from "groups";
import { isPhase, kindsOf } from "kinds";

/** @typedef {import("./groups.js").Group} Group */

/** A choice by this key opens all groups that no other choice closes. */
export const ALL = "*";

const GROUPED_MIN = 2;
const ITERATIONS_OPEN = 4;

export class Tree {
  /** @param {Trace} trace @param {boolean} withNoise */
  constructor(trace, withNoise) {
    this.trace = trace;
    this.version = trace.version;
    this.withNoise = withNoise;
    this.n = trace.n;
    this.kinds = kindsOf(trace);
    /** @type {Group[]} */
    this.groups = [];
    /** @type {Map<number, number[]>} */
    this.regrouped = new Map();
    this.spanParent = shownParents(trace, withNoise);
    this.hidden = 0;
    this.link();
    this.group();
    this.sum();
  }

  /** Children of each span, by start; -1's are the roots. */
  link() {
    const { n, spanParent } = this;
    const order = byStart(this.trace);
    const first = new Int32Array(n + 2);
    for (let row = 0; row < n; row++) if (at(spanParent, row) > -2) first[at(spanParent, row) + 2] = at(first, at(spanParent, row) + 2) + 1;
    for (let i = 1; i < n + 2; i++) first[i] = at(first, i) + at(first, i - 1);
    const children = new Int32Array(n);
    const next = Int32Array.from(first);
    for (let i = 0; i < n; i++) {
      const row = order ? at(order, i) : i;
      const parent = at(spanParent, row);
      if (parent === -2) this.hidden++;
      else {
        children[at(next, parent + 1)] = row;
        next[parent + 1] = at(next, parent + 1) + 1;
      }
    }
    this.first = first;
    this.children = children;
  }

  group() {
    const { trace, kinds } = this;
    const add = (/** @type {Group} */ group) => this.n + this.groups.push(group) - 1;
    for (let parent = -1; parent < this.n; parent++) {
      const rows = this.spansBelow(parent);
      if (rows.length < GROUPED_MIN) continue;
      const list = Array.from(rows);
      const key = parent < 0 ? "" : trace.idOf(parent);
      const nodes = grouped(trace, kinds, list, key, add);
      if (nodes.length !== list.length || nodes.some((node) => node >= this.n)) this.regrouped.set(parent, nodes);
    }
    this.parent = new Int32Array(this.n + this.groups.length).fill(-1);
    this.parent.set(this.spanParent);
    for (const [parent, nodes] of this.regrouped) for (const node of nodes) this.parent[node] = parent;
    this.groups.forEach((group, i) => {
      for (const node of group.members) /** @type {Int32Array} */ (this.parent)[node] = this.n + i;
    });
    this.regrouped.forEach((nodes, parent) => nodes.forEach((node) => (/** @type {Int32Array} */ (this.parent)[node] = parent)));
  }

  /** Ends, errors and open spans of each node with all below it. */
  sum() {
    const total = this.n + this.groups.length;
    const { trace } = this;
    this.errors = new Int32Array(total);
    this.running = new Int32Array(total);
    this.groupStart = new Float64Array(this.groups.length).fill(Infinity);
    this.groupEnd = new Float64Array(this.groups.length);
    const { nodes } = this.walk(null);
    const now = trace.now();
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = at(nodes, i);
      if (node < this.n) {
        if (trace.status[node] === 2) this.errors[node] = at(this.errors, node) + 1;
        if (trace.isOpen(node)) this.running[node] = at(this.running, node) + 1;
      }
      const parent = this.parentOf(node);
      if (parent < 0) continue;
      this.errors[parent] = at(this.errors, parent) + at(this.errors, node);
      this.running[parent] = at(this.running, parent) + at(this.running, node);
      if (parent >= this.n) {
        const group = parent - this.n;
        this.groupStart[group] = Math.min(at(this.groupStart, group), this.startOf(node));
        this.groupEnd[group] = Math.max(at(this.groupEnd, group), this.endOf(node, now));
      }
    }
  }

  /** @param {number} parent @returns {Int32Array} Rows of spans, before grouping. */
  spansBelow(parent) {
    const first = /** @type {Int32Array} */ (this.first);
    return /** @type {Int32Array} */ (this.children).subarray(at(first, parent + 1), at(first, parent + 2));
  }

  /** @param {number} node -1 for the roots. @returns {ArrayLike<number>} Spans and groups directly below a node. */
  below(node) {
    if (node >= this.n) return this.groupOf(node).members;
    return this.regrouped.get(node) ?? this.spansBelow(node);
  }

  /** @param {number} node @returns {Group} */
  groupOf(node) {
    return /** @type {Group} */ (this.groups[node - this.n]);
  }

  /** @param {number} node @returns {number} -1 for a root, -2 for a span that is not shown. */
  parentOf(node) {
    return at(/** @type {Int32Array} */ (this.parent), node);
  }

  /** @param {number} node */
  startOf(node) {
    return node < this.n ? at(this.trace.start, node) : at(/** @type {Float64Array} */ (this.groupStart), node - this.n);
  }

  /** @param {number} node @param {number} now */
  endOf(node, now) {
    if (node < this.n) return this.trace.end(node, now);
    const isOpen = at(/** @type {Int32Array} */ (this.running), node) > 0;
    return isOpen ? now : at(/** @type {Float64Array} */ (this.groupEnd), node - this.n);
  }

  /** @param {number} node @returns {string} What a reader's choice to open it is kept by. */
  keyOf(node) {
    return node < this.n ? this.trace.idOf(node) : this.groupOf(node).key;
  }

  /** @param {number} node @param {Map<string, boolean>} choices @returns {boolean} */
  isOpen(node, choices) {
    if (!choices.size) return this.isOpenByDefault(node);
    return choices.get(this.keyOf(node)) ?? (choices.has(ALL) || this.isOpenByDefault(node));
  }

  /** @param {number} node @returns {boolean} */
  isOpenByDefault(node) {
    if (node < this.n) {
      const rows = this.spansBelow(node);
      return rows.length === 0 || rows.length > 8 || !rows.every((row) => isPhase(at(this.kinds, row)));
    }
    const group = this.groupOf(node);
    if (group.kind === "fold") return false;
    if (at(/** @type {Int32Array} */ (this.running), node) > 0) return true;
    return group.siblings <= ITERATIONS_OPEN;
  }

  /**
   * @param {Map<string, boolean> | null} choices null opens everything.
   * @returns {{ nodes: Int32Array, depth: Uint16Array }} The nodes that are shown, in order.
   */
  walk(choices) {
    const total = this.n + this.groups.length;
    const nodes = new Int32Array(total);
    const depth = new Uint16Array(total);
    const stack = new Int32Array(total + 1);
    const depths = new Uint16Array(total + 1);
    let top = 0;
    let count = 0;
    const push = (/** @type {ArrayLike<number>} */ list, /** @type {number} */ level) => {
      for (let i = list.length - 1; i >= 0; i--) {
        stack[top] = at(list, i);
        depths[top++] = level;
      }
    };
    push(this.below(-1), 0);
    while (top > 0) {
      const node = at(stack, --top);
      const level = at(depths, top);
      nodes[count] = node;
      depth[count++] = level;
      const list = this.below(node);
      if (list.length && (!choices || this.isOpen(node, choices))) push(list, level + 1);
    }
    return { nodes: nodes.subarray(0, count), depth: depth.subarray(0, count) };
  }

  /** @param {number} row @param {Map<string, boolean>} choices @returns {Map<string, boolean>} Choices under which the span is shown. */
  reveal(row, choices) {
    const opened = new Map(choices);
    for (let node = this.parentOf(row); node >= 0; node = this.parentOf(node)) if (!this.isOpen(node, opened)) opened.set(this.keyOf(node), true);
    return opened;
  }
}

/** @param {ArrayLike<number>} list @param {number} i @returns {number} */
function at(list, i) {
  return /** @type {number} */ (list[i]);
}

/**
 * The nearest ancestor that is shown: -1 for a root, -2 for a span that is not shown itself.
 * @param {Trace} trace @param {boolean} withNoise @returns {Int32Array}
 */
function shownParents(trace, withNoise) {
  const parents = new Int32Array(trace.n);
  const isHidden = (/** @type {number} */ row) =>
    !withNoise && (at(trace.flags, row) & FLAG.noise) !== 0 && trace.status[row] !== 2;
  for (let row = 0; row < trace.n; row++) {
    if (isHidden(row)) {
      parents[row] = -2;
      continue;
    }
    let parent = at(trace.parent, row);
    for (let steps = 0; parent >= 0 && isHidden(parent) && steps < trace.n; steps++) parent = at(trace.parent, parent);
    parents[row] = parent;
  }
  return withoutCycles(trace, parents);
}

/** @param {Trace} trace @param {Int32Array} parents @returns {Int32Array} Foreign data may contain a cycle: cut it into a root. */
function withoutCycles(trace, parents) {
  const seen = new Uint8Array(trace.n); // 1 on the current way up, 2 known to end at a root
  for (let row = 0; row < trace.n; row++) {
    let node = row;
    while (node >= 0 && seen[node] === 0) {
      seen[node] = 1;
      node = at(parents, node);
    }
    if (node >= 0 && seen[node] === 1) parents[node] = -1;
    for (node = row; node >= 0 && seen[node] === 1; node = at(parents, node)) seen[node] = 2;
  }
  return parents;
}

/** @param {Trace} trace @returns {Int32Array | null} Rows by start; null if they are in that order. */
function byStart(trace) {
  let isSorted = true;
  for (let row = 1; row < trace.n && isSorted; row++) isSorted = at(trace.start, row) >= at(trace.start, row - 1);
  if (isSorted) return null;
  return Int32Array.from({ length: trace.n }, (_, row) => row).sort((a, b) => at(trace.start, a) - at(trace.start, b) || a - b);
}
