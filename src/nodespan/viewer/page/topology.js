// A run on its declared graph: which nodes were executed and which edges taken, how often. Pure.

import { iterations } from "groups";
import { NODE } from "kinds";

export const START = "__start__", END = "__end__";

/** @typedef {{ id: string, rows: number[], errors: number, running: number, us: number, graph: string | null }} GraphNode */
/** @typedef {{ source: string, target: string, kind: string, count: number, isDeclared: boolean, points: [number, number][] | null }} GraphEdge */
/**
 * @typedef {object} GraphModel
 * @property {Map<string, GraphNode>} nodes Of the declared graph, with their executions.
 * @property {GraphEdge[]} edges Declared ones as laid out, then taken ones that are not declared.
 * @property {number[][]} rounds Executions by iteration; empty without a loop.
 * @property {number[]} executions In order of their start.
 */

/** @param {Trace} trace @param {number} row @param {Set<number>} runs @returns {number} The run that a span belongs to, or -1. */
export function runOf(trace, row, runs) {
  for (let at = trace.parent[row] ?? -1, steps = 0; at >= 0 && steps < trace.n; at = trace.parent[at] ?? -1, steps++) if (runs.has(at)) return at;
  return -1;
}

/** @param {Tree} tree @param {number} run Row of the run; -1 for a graph that was not run. @returns {number[]} Rows of its node executions, by start. */
export function executionsOf(tree, run) {
  const { trace } = tree;
  const runs = new Set(trace.runs.map((each) => each.row));
  /** @type {number[]} */
  const rows = [];
  for (let row = 0; row < trace.n; row++) if (run >= 0 && tree.kinds[row] === NODE && runOf(trace, row, runs) === run) rows.push(row);
  return rows.sort((a, b) => Number(trace.start[a]) - Number(trace.start[b]) || a - b);
}

/**
 * @param {Tree} tree @param {number} run @param {GraphDocument} graph
 * @param {number} iteration From 1; 0 is the whole run.
 * @returns {GraphModel}
 */
export function graphModel(tree, run, graph, iteration) {
  const { trace } = tree;
  const executions = executionsOf(tree, run);
  const rounds = iterations(trace, tree.kinds, executions)?.rounds ?? [];
  const shown = iteration ? rounds[iteration - 1] ?? [] : executions;
  const taken = takenEdges(trace, iteration ? shown : [run, ...executions], run);
  return { nodes: executedNodes(tree, graph, shown), edges: edgesOf(graph, taken), rounds, executions };
}

/** @param {Tree} tree @param {GraphDocument} graph @param {number[]} rows @returns {Map<string, GraphNode>} */
function executedNodes(tree, graph, rows) {
  const { trace } = tree;
  const now = trace.now();
  /** @type {Map<string, GraphNode>} */
  const nodes = new Map();
  const add = (/** @type {string} */ id, /** @type {string | null} */ hash) => nodes.set(id, { id, rows: [], errors: 0, running: 0, us: 0, graph: hash });
  for (const node of graph.topology.nodes) add(node.id, node.graph);
  for (const node of graph.layout?.nodes ?? []) if (!nodes.has(node.id)) add(node.id, null);
  for (const row of rows) {
    const node = nodes.get(trace.text("node", row));
    if (!node) continue;
    node.rows.push(row);
    node.us += trace.end(row, now) - /** @type {number} */ (trace.start[row]);
    if (trace.status[row] === 2) node.errors++;
    if (trace.isOpen(row)) node.running++;
  }
  return nodes;
}

/** @param {string} source @param {string} target */
function key(source, target) {
  return `${source}\u0000${target}`;
}

/**
 * @param {Trace} trace @param {number[]} rows @param {number} run
 * @returns {Map<string, { source: string, target: string, kind: string, count: number, isDeclared: boolean }>}
 */
function takenEdges(trace, rows, run) {
  const taken = new Map();
  for (const row of rows) {
    const source = row === run ? START : trace.text("node", row);
    for (const edge of trace.edges.get(row) ?? []) {
      const known = taken.get(key(source, edge.target));
      const count = edge.count ?? 1; // of a send: its number of executions
      if (known) known.count += count;
      else taken.set(key(source, edge.target), { source, target: edge.target, kind: edge.kind, count, isDeclared: edge.is_declared });
    }
  }
  return taken;
}

/** @param {GraphDocument} graph @param {ReturnType<typeof takenEdges>} taken @returns {GraphEdge[]} */
function edgesOf(graph, taken) {
  /** @type {GraphEdge[]} */
  const edges = [];
  const declared = new Set();
  for (const edge of graph.layout?.edges ?? []) {
    const id = key(edge.source, edge.target);
    if (declared.has(id)) continue; // an edge and a branch between the same nodes are one line
    declared.add(id);
    edges.push({ source: edge.source, target: edge.target, kind: edge.kind, count: taken.get(id)?.count ?? 0, isDeclared: true, points: edge.points });
  }
  for (const [id, edge] of taken) if (!declared.has(id)) edges.push({ ...edge, points: null });
  return edges;
}

/**
 * The run whose graph is shown: the one that the URL names, else that of the selected span, else the first with a graph.
 * @param {Tree} tree @param {string} spanId @param {number} selected Row, or -1. @returns {RunEntry | null}
 */
export function chosenRun(tree, spanId, selected) {
  const { trace } = tree;
  const byRow = new Map(trace.runs.map((run) => [run.row, run]));
  const named = byRow.get(trace.rowOf(spanId));
  if (named) return named;
  if (selected >= 0 && selected < tree.n) {
    const own = byRow.get(selected) ?? byRow.get(runOf(trace, selected, new Set(byRow.keys())));
    if (own?.graph) return own;
  }
  return trace.runs.find((run) => run.graph && trace.graphs[run.graph]) ?? trace.runs[0] ?? null;
}

/** @param {Tree} tree @param {number} run @returns {RunEntry[]} The runs around a run, outermost first, itself last. */
export function runsAround(tree, run) {
  const byRow = new Map(tree.trace.runs.map((each) => [each.row, each]));
  const rows = new Set(byRow.keys());
  /** @type {RunEntry[]} */
  const around = [];
  for (let row = run; row >= 0 && around.length < 50; row = runOf(tree.trace, row, rows)) around.unshift(/** @type {RunEntry} */ (byRow.get(row)));
  return around;
}

/** @param {Tree} tree @param {number[]} executions Of a node that is a subgraph. @returns {RunEntry | null} The subgraph's run in the last of them. */
export function runInside(tree, executions) {
  const { trace } = tree;
  for (const execution of [...executions].reverse()) {
    for (const run of trace.runs) {
      if (run.row === execution) return run;
      for (let at = run.row, steps = 0; at >= 0 && steps < trace.n; at = trace.parent[at] ?? -1, steps++) if (at === execution) return run;
    }
  }
  return null;
}
