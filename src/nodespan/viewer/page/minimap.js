// The whole run in a strip above the rows: shows where the range in sight lies, and sets it.

import { el } from "dom";
import { duration } from "format";
import { ticks } from "scale";
import { colours, prepared } from "theme";

const HEIGHT = 56;
const BARS_MAX = 4000;

/**
 * @param {(range: import("./scale.js").Range | null) => void} choose Called with the range that was dragged; null is the whole.
 */
export function createMinimap(choose) {
  const canvas = el("canvas", { class: "minimap", height: HEIGHT, "aria-hidden": "true" });
  let length = 1;
  let dragFrom = -1;

  const usAt = (/** @type {PointerEvent} */ event) => {
    const box = canvas.getBoundingClientRect();
    return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1) * length;
  };
  canvas.addEventListener("pointerdown", (event) => {
    dragFrom = usAt(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragFrom < 0) return;
    const at = usAt(event);
    if (Math.abs(at - dragFrom) > length / 200) choose({ from: Math.min(at, dragFrom), to: Math.max(at, dragFrom) });
  });
  canvas.addEventListener("pointerup", () => (dragFrom = -1));
  canvas.addEventListener("dblclick", () => choose(null));

  return {
    canvas,
    /**
     * @param {Tree} tree @param {Int32Array} nodes In sight, in order @param {number} whole µs @param {import("./scale.js").Range} range
     */
    draw(tree, nodes, whole, range) {
      length = whole;
      const width = canvas.clientWidth;
      if (!width) return;
      const context = prepared(canvas, width, HEIGHT);
      drawAxis(context, whole, width);
      drawBars(context, tree, nodes, whole, width);
      if (range.from > 0 || range.to < whole) shade(context, whole, width, range);
    },
  };
}

/** @param {CanvasRenderingContext2D} context @param {number} whole @param {number} width */
function drawAxis(context, whole, width) {
  const colour = colours();
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  for (const at of ticks(0, whole, width).ticks) {
    const x = (at / whole) * width;
    context.fillStyle = colour.line;
    context.fillRect(x, 0, 1, HEIGHT);
    context.fillStyle = colour.dim;
    if (x < width - 50) context.fillText(duration(at), x + 4, 2);
  }
}

/** @param {CanvasRenderingContext2D} context @param {Tree} tree @param {Int32Array} nodes @param {number} whole @param {number} width */
function drawBars(context, tree, nodes, whole, width) {
  const colour = colours();
  const now = tree.trace.now();
  const top = 17;
  const each = Math.min(4, (HEIGHT - top - 2) / Math.max(nodes.length, 1));
  const stride = Math.max(1, Math.floor(nodes.length / BARS_MAX));
  for (let i = 0; i < nodes.length; i++) {
    const node = /** @type {number} */ (nodes[i]);
    const isError = node < tree.n && tree.trace.status[node] === 2;
    if (i % stride && !isError) continue;
    const x = (tree.startOf(node) / whole) * width;
    const end = (tree.endOf(node, now) / whole) * width;
    context.fillStyle = isError ? colour.error : /** @type {string} */ (colour.kinds[tree.kinds[node] ?? 0]);
    context.fillRect(x, top + i * each, Math.max(1, end - x), Math.max(1, Math.min(each - 0.5, 3)));
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} whole @param {number} width @param {import("./scale.js").Range} range */
function shade(context, whole, width, range) {
  const colour = colours();
  const [left, right] = [(range.from / whole) * width, (range.to / whole) * width];
  context.fillStyle = colour.back;
  context.globalAlpha = 0.7;
  context.fillRect(0, 0, left, HEIGHT);
  context.fillRect(right, 0, width - right, HEIGHT);
  context.globalAlpha = 1;
  context.fillStyle = colour.accent;
  context.fillRect(left, 0, 2, HEIGHT);
  context.fillRect(right - 2, 0, 2, HEIGHT);
}
