// The graph view: the declared graph with the executions and taken edges of this run.

import { button, el, fill, svg } from "dom";
import { duration, integer, line } from "format";
import { drawGraph } from "drawing";
import { press } from "keys";
import { value } from "router";
import { chosenRun, graphModel, runInside, runsAround } from "topology";

/** @typedef {import("./topology.js").GraphModel} GraphModel */

/** @param {App} app @returns {View} */
export function createGraph(app) {
  const bar = el("div", { class: "graph-bar" });
  const canvas = el("div", { class: "graph-canvas", tabindex: "0", role: "region", "aria-label": "Graph" });
  const strip = el("div", { class: "executions-strip", role: "group", "aria-label": "Executions of the selected node" });
  const element = el("section", { class: "graph", "aria-label": "Graph" }, bar, canvas, strip);
  /** @type {GraphModel | null} */
  let model = null;
  /** @type {GraphDocument | null} */
  let graph = null;
  let runRow = -1;

  /** @returns {string} The node that the selected span is an execution of. */
  function selectedNode() {
    const row = app.cursor();
    for (const node of model?.nodes.values() ?? []) if (node.rows.includes(row)) return node.id;
    return "";
  }

  /** @param {string} id */
  function choose(id) {
    const node = model?.nodes.get(id);
    const { trace } = app.store.get();
    if (!node?.rows.length || !trace) {
      app.notify(`${line(id)} was not executed${value(app.store.get().route, "iteration") ? " in this iteration" : ""}.`);
      return;
    }
    const running = node.rows.find((row) => trace.isOpen(row));
    app.select(running ?? /** @type {number} */ (node.rows.at(-1)));
  }

  /** @param {string} id Open the subgraph that a node is. */
  function open(id) {
    const { tree } = app.store.get();
    const node = model?.nodes.get(id);
    if (!tree || !node?.graph) return;
    const selected = app.cursor();
    const inner = runInside(tree, node.rows.includes(selected) ? [selected] : node.rows);
    app.patch({ run: inner ? tree.trace.idOf(inner.row) : runRow >= 0 ? tree.trace.idOf(runRow) : null, sub: inner ? null : node.graph, iteration: null });
  }

  function leave() {
    const { tree, route } = app.store.get();
    if (!tree) return;
    if (value(route, "sub")) app.patch({ sub: null });
    else {
      const outer = runsAround(tree, runRow).at(-2);
      if (outer) app.patch({ run: tree.trace.idOf(outer.row), iteration: null });
    }
  }

  /** @param {number} by */
  function toNode(by) {
    const ids = (graph?.layout?.nodes ?? []).filter((box) => model?.nodes.get(box.id)?.rows.length).sort((a, b) => a.y - b.y || a.x - b.x).map((box) => box.id);
    if (!ids.length) return;
    const at = ids.indexOf(selectedNode());
    choose(/** @type {string} */ (ids[at < 0 ? 0 : (at + by + ids.length) % ids.length]));
  }

  /** @param {number} by */
  function toExecution(by) {
    const rows = model?.executions ?? [];
    if (!rows.length) return;
    const at = rows.indexOf(app.cursor());
    app.select(/** @type {number} */ (rows[at < 0 ? 0 : Math.min(Math.max(0, at + by), rows.length - 1)]));
  }

  /** @param {Readonly<AppState>} state */
  function render(state) {
    const { tree, trace, route } = state;
    if (!tree || !trace) return;
    const run = chosenRun(tree, value(route, "run"), app.cursor());
    const sub = value(route, "sub");
    runRow = run?.row ?? -1;
    const hash = sub || run?.graph || "";
    graph = trace.graphs[hash] ?? null;
    bar.hidden = !graph?.layout;
    if (!graph?.layout) {
      model = null;
      strip.hidden = true;
      fill(canvas, el("p", { class: "empty" }, hash ? "The graph of this run is not in the store; it travels with the first run of a program." : "No graph was recorded for this run."));
      return;
    }
    const count = Number(value(route, "iteration")) || 0;
    model = graphModel(tree, sub ? -1 : runRow, graph, count);
    const hadFocus = canvas.contains(document.activeElement) ? document.activeElement?.getAttribute("data-node") : null;
    const [left, top] = [canvas.scrollLeft, canvas.scrollTop];
    fill(bar, ...barOf(app, tree, runRow, sub ? graph : null, model, count));
    fill(canvas, drawGraph(model, graph.layout, graph.topology.name, { selected: selectedNode(), choose, open }));
    canvas.scrollTo(left, top);
    if (hadFocus) /** @type {SVGElement | null} */ ([...canvas.querySelectorAll("[data-node]")].find((node) => node.getAttribute("data-node") === hadFocus) ?? null)?.focus();
    renderStrip(tree);
  }

  /** @param {Tree} tree */
  function renderStrip(tree) {
    const { trace } = tree;
    const node = model?.nodes.get(selectedNode());
    strip.hidden = !node;
    if (!node) return;
    const now = trace.now();
    const at = node.rows.indexOf(app.cursor());
    const from = Math.max(0, Math.min(at - 20, node.rows.length - 40));
    fill(strip, el("b", {}, line(node.id)), el("span", { class: "dim" }, `${at + 1} of ${integer(node.rows.length)}`), ...node.rows.slice(from, from + 40).map((row) => {
      const step = trace.step[row] ?? -1;
      return button(`${step >= 0 ? `step ${step} · ` : ""}${duration(trace.end(row, now) - Number(trace.start[row]))}`, () => app.select(row),
        { "aria-pressed": String(row === app.cursor()), class: trace.status[row] === 2 ? "is-error" : null });
    }), node.graph ? button("Open the subgraph", () => open(node.id)) : null);
  }

  /** @type {Record<string, () => void>} */
  const keys = { j: () => toExecution(1), k: () => toExecution(-1), l: () => toNode(1), h: () => toNode(-1), o: leave };

  return {
    element,
    key(name) {
      const isSubgraph = Boolean(model?.nodes.get(selectedNode())?.graph);
      if (name === "Enter" && isSubgraph) open(selectedNode());
      return press(keys, name) || (name === "Enter" && isSubgraph);
    },
    update(state, changed) {
      if (changed.has("tree") || changed.has("route")) render(state);
    },
  };
}

/**
 * @param {App} app @param {Tree} tree @param {number} runRow @param {GraphDocument | null} sub @param {GraphModel} model @param {number} iteration
 * @returns {(HTMLElement | null)[]}
 */
function barOf(app, tree, runRow, sub, model, iteration) {
  const around = runsAround(tree, runRow);
  const crumbs = el("nav", { class: "crumbs", "aria-label": "Graphs" });
  around.forEach((run, i) => {
    if (i) crumbs.append(" / ");
    const name = line(tree.trace.graphs[run.graph ?? ""]?.topology.name || tree.trace.text("name", run.row).replace(/^invoke_\w+ /, ""));
    const isLast = i === around.length - 1 && !sub;
    crumbs.append(isLast ? el("b", {}, name) : button(name, () => app.patch({ run: tree.trace.idOf(run.row), sub: null, iteration: null }), { class: "link" }));
  });
  if (sub) crumbs.append(" / ", el("b", {}, line(sub.topology.name || "subgraph")), el("span", { class: "dim" }, " not run"));
  return [crumbs, model.rounds.length ? iterationPicker(app, model, iteration) : null, legend()];
}

/** @param {App} app @param {GraphModel} model @param {number} iteration */
function iterationPicker(app, model, iteration) {
  const choose = (/** @type {number} */ next) => app.patch({ iteration: next ? String(next) : null }, true);
  const last = model.rounds.length;
  const select = el("select", { "aria-label": "Iteration", onchange: () => choose(Number(select.value)) },
    el("option", { value: 0 }, `all ${last} iterations`), ...model.rounds.map((_, i) => el("option", { value: i + 1 }, `iteration ${i + 1}`)));
  select.value = String(iteration);
  return el("span", {}, button("‹", () => choose(Math.max(0, iteration - 1)), { class: "switch", "aria-label": "Previous iteration" }), " ", select, " ",
    button("›", () => choose(Math.min(last, iteration + 1)), { class: "switch", "aria-label": "Next iteration" }));
}

function legend() {
  /** @type {[string, string][]} */
  const kinds = [["", "declared"], ["is-taken", "taken"], ["is-conditional", "conditional"], ["is-undeclared", "not declared"]];
  return el("span", { class: "keys", "aria-label": "Edges" }, ...kinds.map(([name, word]) =>
    el("span", {}, svg("svg", { viewBox: "0 0 26 10", class: `edge ${name}`, "aria-hidden": "true" }, svg("path", { class: "lane", d: "M0,5 H26" })), word)));
}
