// The declared graph as SVG, from the server's layout. Only shapes; the graph view gives them their meaning.

import { svg } from "dom";
import { duration, integer, line } from "format";
import { END, START } from "topology";

/** @typedef {import("./topology.js").GraphModel} GraphModel */
/** @typedef {import("./topology.js").GraphEdge} GraphEdge */

const MARGIN = 8, BOW = 46;

/**
 * @param {GraphModel} model @param {Layout} layout @param {string} name
 * @param {{ selected: string, choose: (id: string) => void, open: (id: string) => void }} actions
 * @returns {SVGSVGElement}
 */
export function drawGraph(model, layout, name, actions) {
  const boxes = new Map(layout.nodes.map((node) => [node.id, node]));
  const bow = model.edges.some((edge) => !edge.points) ? BOW + 30 : 0;
  const [width, height] = [layout.width + 2 * MARGIN + bow, layout.height + 2 * MARGIN];
  return svg("svg", { width, height, viewBox: `${-MARGIN} ${-MARGIN} ${width} ${height}`, role: "group", "aria-label": `Graph ${line(name)}` },
    ...model.edges.map((edge) => drawEdge(edge, boxes)),
    ...layout.nodes.map((box) => drawNode(box, model, actions)));
}

/** @param {GraphEdge} edge @param {Map<string, LayoutNode>} boxes @returns {SVGElement | null} */
function drawEdge(edge, boxes) {
  const points = edge.points ?? bowed(boxes.get(edge.source), boxes.get(edge.target));
  const last = points?.at(-1);
  if (!points || !last || points.length < 2) return null;
  const isConditional = edge.kind === "branch" || edge.kind === "any";
  const className = `edge${edge.count ? " is-taken" : ""}${isConditional ? " is-conditional" : ""}${edge.isDeclared ? "" : " is-undeclared"}`;
  const words = `${line(edge.source)} to ${line(edge.target) || "a node that its branch does not declare"}: ${edge.count ? `taken ${edge.count} times` : "not taken"}${isConditional ? ", conditional" : ""}${edge.isDeclared ? "" : ", not declared"}`;
  const isArc = !edge.points || edge.source === edge.target;
  const middle = isArc ? summitOf(points) : middleOf(points);
  const isBack = !isArc && directionOf(points) === "up";
  return svg("g", { class: className, "data-source": edge.source, "data-target": edge.target, "data-count": edge.count },
    svg("title", {}, words),
    svg("path", { class: "lane", d: isArc ? arc(points) : curve(points) }),
    svg("path", { class: "tip", d: tip(last, isArc ? "left" : directionOf(points)) }),
    // Counts are drawn outside of a pair of edges between the same nodes: forward on the left, back on the right.
    edge.count ? svg("text", { x: middle[0] + (isBack || isArc ? 5 : -5), y: middle[1] + 4, "text-anchor": isBack || isArc ? "start" : "end" }, `${edge.isDeclared ? "" : "! "}×${integer(edge.count)}`) : null);
}

const SMALL_CHARACTER = 6.2; // pixels

/** @param {LayoutNode} box @param {GraphModel} model @param {{ selected: string, choose: (id: string) => void, open: (id: string) => void }} actions */
function drawNode(box, model, actions) {
  const node = model.nodes.get(box.id);
  const isEnd = box.id === START || box.id === END;
  const count = node?.rows.length ?? 0;
  const words = [line(box.id)];
  if (!isEnd) words.push(count ? `executed ${integer(count)} times, ${duration(node?.us ?? 0)}` : "not executed");
  if (node?.errors) words.push(`${node.errors} errors`);
  if (node?.running) words.push("running");
  if (node?.graph) words.push("a subgraph");
  const className = ["gnode", isEnd && "is-end", count && "is-executed", node?.errors && "is-error", node?.running && "is-running", box.id === actions.selected && "is-selected"].filter(Boolean).join(" ");
  const [times, errors] = [count ? `×${integer(count)}` : "", node?.errors ? `  ✕ ${integer(node.errors)}` : ""];
  const whole = `${times}${count ? ` · ${duration(node?.us ?? 0)}` : ""}${errors}`;
  const note = whole.length * SMALL_CHARACTER < box.w - 8 ? whole : times + errors;
  const isTall = box.h >= 36 && note !== "";
  const [x, y] = [box.x + box.w / 2, box.y + box.h / 2];
  const title = { [START]: "start", [END]: "end" }[box.id] ?? line(box.id);
  return svg("g", {
    class: className, "data-node": box.id, "data-count": count, tabindex: isEnd ? null : 0, role: isEnd ? "img" : "button",
    "aria-label": [shortened(title, box.w), isTall ? note : "", words.join(", ")].filter(Boolean).join(" "), "aria-pressed": isEnd ? null : String(box.id === actions.selected),
    onclick: () => !isEnd && actions.choose(box.id), ondblclick: () => actions.open(box.id),
    onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (node?.graph && box.id === actions.selected) actions.open(box.id);
      else actions.choose(box.id);
    },
  },
  node?.graph ? svg("rect", { x: box.x + 4, y: box.y + 4, width: box.w, height: box.h, rx: 8 }) : null,
  svg("rect", { x: box.x, y: box.y, width: box.w, height: box.h, rx: isEnd ? box.h / 2 : 8 }),
  svg("text", { class: "title", x, y: isTall ? y - 2 : y + 4.5, "text-anchor": "middle" }, `${shortened(title, box.w)} `),
  isTall ? svg("text", { class: "small", x, y: y + 13, "text-anchor": "middle" }, note) : null);
}

/** @param {string} text @param {number} width @returns {string} */
function shortened(text, width) {
  const most = Math.max(4, Math.floor((width - 14) / 7));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** @param {[number, number][]} points @returns {string} Vertical at both ends of each part. */
function curve(points) {
  const [first, ...rest] = /** @type {[[number, number], ...[number, number][]]} */ (points);
  let path = `M${first[0]},${first[1]}`;
  let [x, y] = first;
  for (const [nextX, nextY] of rest) {
    const middle = (y + nextY) / 2;
    path += x === nextX ? ` L${nextX},${nextY}` : ` C${x},${middle} ${nextX},${middle} ${nextX},${nextY}`;
    [x, y] = [nextX, nextY];
  }
  return path;
}

/** @param {LayoutNode | undefined} from @param {LayoutNode | undefined} to @returns {[number, number][] | null} A way on the right of the nodes. */
function bowed(from, to) {
  if (!from || !to) return null;
  const x = Math.max(from.x + from.w, to.x + to.w) + BOW;
  const [y1, y2] = [from.y + from.h / 2, to.y + to.h / 2 + (from === to ? 8 : 0)];
  return [[from.x + from.w, y1 - (from === to ? 8 : 0)], [x, (y1 + y2) / 2], [to.x + to.w, y2]];
}

/** @param {[number, number][]} points @returns {string} */
function arc(points) {
  const [from, by, to] = /** @type {[[number, number], [number, number], [number, number]]} */ (points);
  return `M${from[0]},${from[1]} C${by[0]},${from[1]} ${by[0]},${to[1]} ${to[0]},${to[1]}`;
}

/** @param {[number, number][]} points @returns {"up" | "down"} */
function directionOf(points) {
  const [before, last] = /** @type {[[number, number], [number, number]]} */ (points.slice(-2));
  return last[1] >= before[1] ? "down" : "up";
}

/** @param {[number, number]} at @param {"up" | "down" | "left"} direction @returns {string} */
function tip([x, y], direction) {
  if (direction === "left") return `M${x},${y} l7,-4 v8 z`;
  return direction === "down" ? `M${x},${y} l-4,-7 h8 z` : `M${x},${y} l-4,7 h8 z`;
}

/** @param {[number, number][]} points Its way out and back. @returns {[number, number]} Where an arc is farthest out. */
function summitOf(points) {
  const [from, by] = /** @type {[[number, number], [number, number]]} */ (points);
  return [from[0] + 0.75 * (by[0] - from[0]), by[1]];
}

/** @param {[number, number][]} points @returns {[number, number]} */
function middleOf(points) {
  if (points.length % 2) return /** @type {[number, number]} */ (points[(points.length - 1) / 2]);
  const [a, b] = [points[points.length / 2 - 1], points[points.length / 2]];
  return a && b ? [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] : [0, 0];
}
