import assert from "node:assert/strict";
import { test } from "node:test";
import { prefixMatrix, timeByPhase } from "lens";
import { chosenRun, graphModel, runInside, runsAround } from "topology";
import { Trace } from "trace";
import { Tree } from "tree";
import { changes, executions } from "writes";
import { runOf, traceDocument } from "./fixtures.mjs";

const edge = (target, is_declared = true, kind = "edge") => ({ target, kind, is_declared });
const document_ = (nodes, edges) => ({
  hash: "h", topology: { name: "guide", nodes: nodes.map((id) => ({ id, graph: null })), edges: [], joins: [], branches: [] },
  layout: { width: 10, height: 10, nodes: ["__start__", ...nodes, "__end__"].map((id) => ({ id, x: 0, y: 0, w: 1, h: 1 })), edges: edges.map(([source, target, kind = "edge"]) => ({ source, target, kind, points: [[0, 0], [1, 1]] })) },
});
const tree = (spans, more) => new Tree(new Trace(traceDocument(spans, more)), false);

test("nodes have their executions and edges their counts", () => {
  const spans = runOf([["plan", 1, { edges: [edge("act")] }], ["act", 2, { edges: [edge("plan", true, "branch")] }], ["plan", 3, { edges: [edge("act")] }], ["act", 4, { status: 2, edges: [edge("__end__")] }]]);
  spans[0].edges = [edge("plan")];
  const model = graphModel(tree(spans), 0, document_(["plan", "act", "never"], [["__start__", "plan"], ["plan", "act"], ["act", "plan", "branch"], ["act", "__end__", "branch"], ["act", "never", "branch"]]), 0);
  assert.deepEqual([...model.nodes.values()].map((node) => [node.id, node.rows.length, node.errors]), [["plan", 2, 0], ["act", 2, 1], ["never", 0, 0], ["__start__", 0, 0], ["__end__", 0, 0]]);
  assert.deepEqual(model.edges.map((each) => [each.source, each.target, each.count]), [["__start__", "plan", 1], ["plan", "act", 2], ["act", "plan", 1], ["act", "__end__", 1], ["act", "never", 0]]);
});

test("an undeclared jump is a separate marked edge", () => {
  const spans = runOf([["plan", 1, { edges: [edge("write", false, "edge")] }], ["write", 2]]);
  const model = graphModel(tree(spans), 0, document_(["plan", "write"], [["__start__", "plan"]]), 0);
  assert.deepEqual(model.edges.at(-1), { source: "plan", target: "write", kind: "edge", count: 1, isDeclared: false, points: null });
});

test("an iteration shows only its executions and edges", () => {
  const spans = runOf([["plan", 1, { edges: [edge("act")] }], ["act", 2, { edges: [edge("plan")] }], ["plan", 3, { edges: [edge("act")] }], ["act", 4, { edges: [edge("write")] }], ["write", 5]]);
  const document = document_(["plan", "act", "write"], [["plan", "act"], ["act", "plan"], ["act", "write"]]);
  const model = graphModel(tree(spans), 0, document, 1);
  assert.equal(model.rounds.length, 2);
  assert.deepEqual(model.edges.map((each) => each.count), [1, 1, 0]);
  assert.deepEqual(graphModel(tree(spans), 0, document, 2).edges.map((each) => each.count), [1, 0, 1]);
});

test("executions of a subgraph belong to its own run, and the way in and out is found", () => {
  const spans = runOf([["check", 1], ["check", 2]], [
    { name: "invoke_workflow check", operation: "invoke_workflow", parent: 1, start: 1, duration: 5, graph: "inner" }, { name: "invoke_node spell", operation: "invoke_node", node: "spell", step: 1, parent: 3, start: 2 },
    { name: "invoke_workflow check", operation: "invoke_workflow", parent: 2, start: 11, duration: 5, graph: "inner" }, { name: "invoke_node spell", operation: "invoke_node", node: "spell", step: 1, parent: 5, start: 12 },
  ]);
  spans[0].graph = "outer";
  const found = tree(spans, { graphs: { outer: document_(["check"], []), inner: document_(["spell"], []) } });
  assert.deepEqual(graphModel(found, 0, document_(["check"], []), 0).executions, [1, 2]);
  assert.deepEqual(graphModel(found, 5, document_(["spell"], []), 0).executions, [6]);
  assert.equal(runInside(found, [1]).row, 3);
  assert.equal(runInside(found, [1, 2]).row, 5);
  assert.deepEqual(runsAround(found, 5).map((run) => run.row), [0, 5]);
  assert.equal(chosenRun(found, "", 6).row, 5);
  assert.equal(chosenRun(found, "", -1).row, 0);
  assert.equal(chosenRun(found, found.trace.idOf(3), 6).row, 3);
});

test("the graph equals the executions and edges of any run", () => {
  let seed = 11;
  const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
  const names = ["a", "b", "c", "d"];
  for (let round = 0; round < 200; round++) {
    const declared = names.flatMap((source) => names.filter(() => random(2)).map((target) => [source, target]));
    const isDeclared = (source, target) => declared.some(([s, t]) => s === source && t === target);
    const list = Array.from({ length: random(30) }, (_, i) => {
      const node = names[random(4)];
      const targets = names.filter(() => random(3) === 0);
      return [node, i + 1, { edges: targets.map((target) => edge(target, isDeclared(node, target))) }];
    });
    const model = graphModel(tree(runOf(list)), 0, document_(names, declared), 0);
    for (const name of names) assert.equal(model.nodes.get(name).rows.length, list.filter(([node]) => node === name).length);
    const counts = new Map();
    for (const [node, , { edges }] of list) for (const { target } of edges) counts.set(node + target, (counts.get(node + target) ?? 0) + 1);
    for (const each of model.edges) {
      assert.equal(each.count, counts.get(each.source + each.target) ?? 0);
      assert.equal(each.isDeclared, isDeclared(each.source, each.target));
      counts.delete(each.source + each.target);
    }
    assert.equal(counts.size, 0);
  }
});

test("the time of a model call consists of its phases and the rest", () => {
  const found = tree([
    { name: "chat m", operation: "chat", duration: 1000 }, { name: "pipeline.queue", parent: 0, duration: 100 }, { name: "llama_cpp.prefill", parent: 0, start: 100, duration: 500 },
    { name: "llama_cpp.decode", parent: 0, start: 600, duration: 300 },
  ]);
  assert.deepEqual(timeByPhase(found, 0), [{ kind: "queue", us: 100 }, { kind: "prefill", us: 500 }, { kind: "decode", us: 300 }, { kind: "other", us: 100 }]);
});

test("a write is compared with the last one to its channel", () => {
  const write = (channel, hmac) => ({ channel, type: "str", size_bytes: 3, hmac, value: null });
  const trace = new Trace(traceDocument(runOf([["a", 1, { writes: [write("x", "1"), write("y", null)] }], ["b", 2, { writes: [write("x", "1"), write("y", "3")] }], ["c", 3, { writes: [write("x", "2")] }]])));
  const list = executions(trace);
  assert.deepEqual(list.flatMap(({ writes }) => writes.map((each) => changes(list).get(each))), ["first", "first", "same", "unknown", "changed"]);
});

test("the matrix has the part of the prompt that a node found in the context, by the node before it", () => {
  const chat = (parent, start, tokens_in, prefix) => ({ name: "chat m", operation: "chat", parent, start, tokens_in, prefix });
  const found = tree(runOf([["plan", 1], ["act", 2], ["plan", 3]], [
    chat(1, 1, 100, { shared: 0, repeated: 0, previous_node: "", cost_s: 1 }), chat(2, 11, 200, { shared: 50, repeated: 50, previous_node: "plan", cost_s: 1 }),
    chat(3, 21, 100, { shared: 92, repeated: 8, previous_node: "act", cost_s: 1 }),
  ]));
  const matrix = prefixMatrix(found);
  assert.deepEqual(matrix.get("plan")?.get("act"), { shared: 92, input: 100 });
  assert.deepEqual(matrix.get("act")?.get("plan"), { shared: 50, input: 200 });
  assert.deepEqual([...matrix.keys()], ["plan", "act"]);
});
