// The critical path of a trace: the spans that determined its end time, and when. Pure.

/**
 * @param {Tree} tree
 * @returns {Map<number, number[]>} By row: from, to, from, to … in µs, the span's own time on the path.
 */
export function criticalPath(tree) {
  const { trace } = tree;
  const now = trace.now();
  /** @type {Map<number, number[]>} */
  const path = new Map();
  const roots = Array.from(tree.spansBelow(-1));
  const last = roots.reduce((best, row) => (best < 0 || trace.end(row, now) > trace.end(best, now) ? row : best), -1);
  if (last < 0) return path;
  /** @type {[number, number][]} */
  const stack = [[last, trace.end(last, now)]];
  while (stack.length) {
    const [row, until] = /** @type {[number, number]} */ (stack.pop());
    const start = /** @type {number} */ (trace.start[row]);
    let cursor = until;
    /** @type {number[]} */
    const own = [];
    const children = Array.from(tree.spansBelow(row)).sort((a, b) => trace.end(b, now) - trace.end(a, now));
    for (const child of children) {
      const childStart = Math.max(/** @type {number} */ (trace.start[child]), start);
      const childEnd = Math.min(trace.end(child, now), until); // a child may end after its parent
      if (childEnd > cursor || childEnd <= childStart) continue; // a parallel span ended later
      if (cursor > childEnd) own.push(childEnd, cursor);
      stack.push([child, childEnd]);
      cursor = childStart;
    }
    if (cursor > start) own.push(start, cursor);
    path.set(row, own);
  }
  return path;
}
