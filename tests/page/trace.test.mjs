import assert from "node:assert/strict";
import { test } from "node:test";
import { Trace } from "trace";
import { Tree } from "tree";
import { delta, runOf, traceDocument } from "./fixtures.mjs";

const id = (row) => row.toString(16).padStart(16, "0");
const names = (trace) => Array.from({ length: trace.n }, (_, row) => trace.text("name", row));

test("a span that has ended replaces the open one of its id", () => {
  const trace = new Trace(traceDocument([{ name: "root", state: 1, start: 0, phase: { name: "decoding", done: 4, total: null, position: null, text: "" } }]));
  assert.equal(trace.isOpen(0), true);
  trace.merge(delta([{ id: id(0), name: "root", start: 0, duration: 50 }]), "2");
  assert.deepEqual([trace.n, trace.isOpen(0), trace.duration[0], trace.phases.size, trace.cursor], [1, false, 50, 0, "2"]);
});

test("a child that arrives before its parent is placed under it when that arrives", () => {
  const trace = new Trace(traceDocument([{ name: "root" }]));
  trace.merge(delta([{ id: "c".repeat(16), name: "child", start: 2, parent_id: "b".repeat(16) }]), "2");
  assert.equal(trace.parent[1], -1);
  trace.merge(delta([{ id: "b".repeat(16), name: "parent", start: 1, parent_id: id(0) }]), "3");
  assert.deepEqual([...trace.parent.slice(0, 3)], [-1, 2, 0]);
  const { nodes } = new Tree(trace, false).walk(null);
  assert.deepEqual([...nodes].map((row) => names(trace)[row]), ["root", "parent", "child"]);
});

test("an open span that is no longer listed has no end", () => {
  const trace = new Trace(traceDocument([{ name: "a", state: 1 }, { name: "b", state: 1, start: 1 }, { name: "c", state: 3, start: 2 }]));
  trace.merge(delta([], { open: [id(1)] }), "2");
  assert.deepEqual([...trace.state.slice(0, 3)], [0, 1, 3]);
});

test("edges and writes are stored with their span", () => {
  const trace = new Trace(traceDocument([{ name: "invoke_node plan", state: 1 }]));
  const edges = [{ target: "act", kind: "edge", is_declared: true }];
  trace.merge(delta([{ id: id(0), name: "invoke_node plan", edges }]), "2");
  assert.deepEqual(trace.edges.get(0), edges);
});

test("a run that starts later is added once", () => {
  const trace = new Trace(traceDocument(runOf([["plan", 1]])));
  const inner = [{ id: "d".repeat(16), name: "invoke_workflow check", operation: "invoke_workflow", start: 3, parent_id: id(1), state: 1 }];
  trace.merge(delta(inner, { runs: [{ row: 0, graph: "h", link: null }] }), "2");
  trace.merge(delta(inner, { runs: [{ row: 0, graph: "h", link: null }] }), "3");
  assert.deepEqual(trace.runs.map((run) => run.row), [0, 2]);
});

test("spans of many changes produce the same trace as one document", () => {
  let seed = 3;
  const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
  for (let round = 0; round < 50; round++) {
    const n = 1 + random(80);
    const spans = Array.from({ length: n }, (_, i) => ({ name: `s${random(9)}`, parent: i ? random(i + 1) - 1 : -1, start: i, duration: random(40), tokens_out: random(9) - 1 }));
    const whole = new Trace(traceDocument(spans));
    const order = spans.map((_, row) => row).sort(() => random(3) - 1);
    const first = order[0] ?? 0;
    const live = new Trace(traceDocument([{ ...spans[first], id: id(first), parent: -1 }]));
    for (const row of order) {
      const parentId = spans[row].parent >= 0 ? id(spans[row].parent) : "";
      if (random(2)) live.merge(delta([{ ...spans[row], id: id(row), parent_id: parentId, state: 1 }]), "1");
      live.merge(delta([{ ...spans[row], id: id(row), parent_id: parentId }]), "2");
    }
    assert.equal(live.n, n);
    for (let row = 0; row < n; row++) {
      const at = live.rowOf(id(row));
      assert.equal(live.text("name", at), whole.text("name", row));
      assert.equal(live.idOf(live.parent[at]), whole.idOf(whole.parent[row]));
      for (const column of ["start", "duration", "state", "tokens_out"]) assert.equal(live[column][at], whole[column][row]);
    }
  }
});
