// Bars of the waterfall, on a canvas. Draws only what it is given: the rows in sight.

import { duration } from "format";
import { isPhase, MODEL } from "kinds";
import { LOST, RUNNING, SILENT } from "trace";
import { colours } from "theme";

export const ROW = 26;
const FONT = "11px system-ui, sans-serif";
const MEMBERS_MAX = 2000;

/**
 * @typedef {object} Drawing
 * @property {CanvasRenderingContext2D} context
 * @property {Tree} tree
 * @property {number} width
 * @property {import("./scale.js").Range} range
 * @property {number} now µs
 * @property {number} pulse 0 to 1
 * @property {Map<number, number[]> | null} path The critical path, if it is shown.
 */

/** @param {Drawing} drawing @param {number} us @returns {number} Pixels from the left. */
export function xOf(drawing, us) {
  const { from, to } = drawing.range;
  return ((us - from) / (to - from)) * drawing.width;
}

/** @param {Drawing} drawing @param {number} node @param {number} y Top of its row. */
export function drawRow(drawing, node, y) {
  const { tree, now } = drawing;
  if (node >= tree.n) drawGroup(drawing, node, y);
  else drawSpan(drawing, node, y, tree.trace.end(node, now));
}

/** @param {Drawing} drawing @param {number} row @param {number} y @param {number} end */
function drawSpan(drawing, row, y, end) {
  const { context, tree } = drawing;
  const { trace } = tree;
  const colour = colours();
  const kind = /** @type {number} */ (tree.kinds[row]);
  const start = /** @type {number} */ (trace.start[row]);
  const box = bar(drawing, start, end);
  if (box) {
    context.fillStyle = /** @type {string} */ (colour.kinds[kind]);
    context.globalAlpha = trace.isOpen(row) ? 0.65 + 0.35 * drawing.pulse : 1;
    rounded(context, box.x, y + 6, box.width, ROW - 12);
    context.globalAlpha = 1;
    if (kind === MODEL) drawPhases(drawing, row, y);
    drawState(drawing, row, y, box);
    drawPath(drawing, row, y);
  }
  drawLabel(drawing, y, start, end, labelOf(drawing, row, end - start));
}

/** @param {Drawing} drawing @param {number} row @param {number} us @returns {string} */
function labelOf(drawing, row, us) {
  const { trace } = drawing.tree;
  const state = trace.state[row];
  const words = [duration(us)];
  if (trace.status[row] === 2) words.push("✕ error");
  if (state === LOST) words.push("lost");
  if (state === SILENT) words.push("silent");
  const phase = trace.phases.get(row);
  if (phase && state === RUNNING) {
    const done = phase.total ? ` ${Math.round((100 * (phase.done ?? 0)) / phase.total)} %` : phase.done ? ` ${phase.done}` : "";
    words.push(phase.name + done);
  }
  return words.join(" · ");
}

/** The parts of a model call inside of its bar. @param {Drawing} drawing @param {number} row @param {number} y */
function drawPhases(drawing, row, y) {
  const { context, tree, now } = drawing;
  const colour = colours();
  for (const child of tree.spansBelow(row)) {
    const kind = /** @type {number} */ (tree.kinds[child]);
    if (!isPhase(kind)) continue;
    const box = bar(drawing, /** @type {number} */ (tree.trace.start[child]), tree.trace.end(child, now));
    if (!box) continue;
    context.fillStyle = /** @type {string} */ (colour.kinds[kind]);
    context.fillRect(box.x, y + 6, box.width, ROW - 12);
  }
}

/** Error, lost and running as forms, because colour alone is not readable for all. @param {Drawing} drawing @param {number} row @param {number} y @param {Box} box */
function drawState(drawing, row, y, box) {
  const { context, tree } = drawing;
  const { trace } = tree;
  const colour = colours();
  if (trace.status[row] === 2) {
    context.strokeStyle = colour.error;
    context.lineWidth = 2;
    context.strokeRect(box.x + 1, y + 6, Math.max(1, box.width - 2), ROW - 12);
  }
  if (trace.state[row] === LOST || trace.state[row] === SILENT) {
    context.strokeStyle = colour.error;
    context.lineWidth = 1.5;
    context.setLineDash([3, 3]);
    context.strokeRect(box.x + 1, y + 6, Math.max(1, box.width - 2), ROW - 12);
    context.setLineDash([]);
  }
  if (trace.state[row] === RUNNING) {
    context.fillStyle = colour.accent;
    context.globalAlpha = 0.4 + 0.6 * drawing.pulse;
    context.fillRect(box.x + box.width - 2, y + 4, 3, ROW - 8);
    context.globalAlpha = 1;
  }
}

/** @param {Drawing} drawing @param {number} row @param {number} y */
function drawPath(drawing, row, y) {
  const parts = drawing.path?.get(row);
  if (!parts) return;
  drawing.context.fillStyle = colours().path;
  for (let i = 0; i < parts.length; i += 2) {
    const box = bar(drawing, /** @type {number} */ (parts[i]), /** @type {number} */ (parts[i + 1]));
    if (box) drawing.context.fillRect(box.x, y + ROW - 5, box.width, 2.5);
  }
}

/** @param {Drawing} drawing @param {number} node @param {number} y */
function drawGroup(drawing, node, y) {
  const { context, tree, now } = drawing;
  const colour = colours();
  const group = tree.groupOf(node);
  const [start, end] = [tree.startOf(node), tree.endOf(node, now)];
  const box = bar(drawing, start, end);
  if (box) {
    context.fillStyle = colour.line;
    context.fillRect(box.x, y + ROW / 2 - 1, box.width, 2);
    drawMembers(drawing, group.members, y);
  }
  const errors = /** @type {Int32Array} */ (tree.errors)[node];
  drawLabel(drawing, y, start, end, errors ? `${duration(end - start)} · ✕ ${errors}` : duration(end - start));
}

/** @param {Drawing} drawing @param {number[]} members @param {number} y */
function drawMembers(drawing, members, y) {
  const { context, tree, now } = drawing;
  const colour = colours();
  const stride = Math.ceil(members.length / MEMBERS_MAX);
  for (let i = 0; i < members.length; i += stride) {
    const member = /** @type {number} */ (members[i]);
    const box = bar(drawing, tree.startOf(member), tree.endOf(member, now));
    if (!box) continue;
    const isError = /** @type {number} */ (/** @type {Int32Array} */ (tree.errors)[member]) > 0;
    context.fillStyle = isError ? colour.error : /** @type {string} */ (colour.kinds[tree.kinds[member] ?? 0]);
    context.fillRect(box.x, y + 8, Math.max(1, box.width - (box.width > 3 ? 1 : 0)), ROW - 16);
  }
}

/** @param {Drawing} drawing @param {number} y @param {number} start @param {number} end @param {string} text */
function drawLabel(drawing, y, start, end, text) {
  const { context, width } = drawing;
  const [left, right] = [xOf(drawing, start), Math.max(xOf(drawing, end), xOf(drawing, start) + 2)];
  context.font = FONT;
  context.fillStyle = colours().dim;
  context.textBaseline = "middle";
  const length = context.measureText(text).width;
  let x = right + 6;
  if (right < 0) x = 4;
  else if (left > width) x = width - length - 4;
  else if (x + length > width - 4) {
    x = left - length - 6;
    if (x < 2) {
      x = Math.max(4, Math.min(right, width) - length - 8);
      context.fillStyle = colours().text;
      context.globalAlpha = 0.85;
      context.fillStyle = colours().back;
      context.fillRect(x - 3, y + 6, length + 6, ROW - 12);
      context.globalAlpha = 1;
      context.fillStyle = colours().text;
    }
  }
  context.fillText(text, x, y + ROW / 2 + 0.5);
}

/** @typedef {{ x: number, width: number }} Box */

/** @param {Drawing} drawing @param {number} start @param {number} end @returns {Box | null} null if it is out of sight. */
function bar(drawing, start, end) {
  const left = xOf(drawing, start);
  const right = xOf(drawing, end);
  if (right < -2 || left > drawing.width + 2) return null;
  const x = Math.max(left, -4);
  return { x, width: Math.max(Math.min(right, drawing.width + 4) - x, 2) };
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} width @param {number} height */
function rounded(context, x, y, width, height) {
  if (width < 5) {
    context.fillRect(x, y, width, height);
    return;
  }
  context.beginPath();
  context.roundRect(x, y, width, height, 2.5);
  context.fill();
}
