import assert from "node:assert/strict";
import { test } from "node:test";
import { Trace } from "trace";
import { Tree } from "tree";
import { criticalPath } from "critical";
import { runOf, traceDocument } from "./fixtures.mjs";

const tree = (spans, noise = false) => new Tree(new Trace(traceDocument(spans)), noise);
const labels = (found, choices = new Map()) => {
  const { nodes, depth } = found.walk(choices);
  return [...nodes].map((node, i) => "  ".repeat(depth[i]) + (node < found.n ? found.trace.text("name", node) : `[${found.groupOf(node).label} ×${found.groupOf(node).count}]`));
};

test("children are under their parents, by start", () => {
  const found = tree([{ name: "root", duration: 9 }, { name: "late", parent: 0, start: 5 }, { name: "early", parent: 0, start: 1 }, { name: "leaf", parent: 2, start: 2 }]);
  assert.deepEqual(labels(found), ["root", "  early", "    leaf", "  late"]);
});

test("a span whose parent is not in the trace is a root", () => {
  assert.deepEqual(labels(tree([{ name: "a", parent: -1 }, { name: "b", parent: -1, start: 1 }])), ["a", "b"]);
});

test("a cycle of parents ends as a root and each span is shown once", () => {
  const found = tree([{ name: "a", parent: 1 }, { name: "b", parent: 0, start: 1 }, { name: "self", parent: 2, start: 2 }]);
  assert.equal(labels(found).length, 3);
});

test("six or more spans of one name are one row until it is opened", () => {
  const chats = Array.from({ length: 312 }, (_, i) => ({ name: "chat m", operation: "chat", parent: 0, start: i, status: i === 7 ? 2 : 0 }));
  const found = tree([{ name: "root", duration: 400 }, ...chats, { name: "other", parent: 0, start: 400 }]);
  assert.deepEqual(labels(found), ["root", "  [chat m ×312]", "  other"]);
  const group = found.parentOf(8);
  assert.equal(found.errors[group], 1);
  assert.equal(found.startOf(group), 0);
  const opened = labels(found, found.reveal(8, new Map()));
  assert.equal(opened.length, 3 + 312);
});

test("five spans of one name are not folded", () => {
  const found = tree([{ name: "root" }, ...Array.from({ length: 5 }, (_, i) => ({ name: "chat m", parent: 0, start: i }))]);
  assert.equal(labels(found).length, 6);
});

test("a loop is shown as its iterations, what is before and after it beside them", () => {
  const found = tree(runOf([["load", 1], ["plan", 2], ["act", 3], ["plan", 4], ["act", 5], ["write", 6]]));
  assert.deepEqual(labels(found), [
    "invoke_workflow guide", "  invoke_node load",
    "  [iteration 1 · plan → act ×2]", "    invoke_node plan", "    invoke_node act",
    "  [iteration 2 · plan → act ×2]", "    invoke_node plan", "    invoke_node act", "  invoke_node write",
  ]);
});

test("parallel executions in one step are no loop", () => {
  const found = tree(runOf([["plan", 1], ["search", 2], ["search", 2], ["search", 2], ["write", 3]]));
  assert.equal(found.groups.length, 0);
});

test("many iterations are closed; the running one is open", () => {
  const executions = Array.from({ length: 20 }, (_, i) => [i % 2 ? "act" : "plan", i + 1, i === 19 ? { state: 1 } : {}]);
  const shown = labels(tree(runOf(executions)));
  assert.equal(shown.filter((label) => label.includes("iteration")).length, 10);
  assert.deepEqual(shown.slice(-3), ["  [iteration 10 · plan → act ×2]", "    invoke_node plan", "    invoke_node act"]);
});

test("spans of frameworks are shown by the switch only, but errors always, and their children stay", () => {
  const spans = [{ name: "root" }, { name: "middleware", flags: 64, parent: 0, start: 1 }, { name: "node", parent: 1, start: 2 }, { name: "broken", flags: 64, status: 2, parent: 0, start: 3 }];
  const found = tree(spans);
  assert.deepEqual(labels(found), ["root", "  node", "  broken"]);
  assert.equal(found.hidden, 1);
  assert.deepEqual(labels(tree(spans, true)), ["root", "  middleware", "    node", "  broken"]);
});

test("the phases of a model call are closed", () => {
  const found = tree([{ name: "chat m", operation: "chat", duration: 10 }, { name: "llama_cpp.prefill", parent: 0 }, { name: "llama_cpp.decode", parent: 0, start: 5 }]);
  assert.deepEqual(labels(found), ["chat m"]);
});

test("errors and open spans are counted upwards, through groups", () => {
  const found = tree(runOf([["plan", 1], ["act", 2, { status: 2 }], ["plan", 3], ["act", 4, { state: 1 }]]));
  assert.equal(found.errors[0], 1);
  assert.equal(found.running[0], 1);
});

test("every span of any tree is shown exactly once when all rows are open", () => {
  let seed = 7;
  const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
  for (let round = 0; round < 200; round++) {
    const n = 1 + random(60);
    const spans = Array.from({ length: n }, (_, i) => ({
      name: ["a", "b", "invoke_node plan"][random(3)], operation: random(2) ? "invoke_node" : "", node: ["plan", "act"][random(2)], step: random(9) - 1,
      parent: i && random(8) ? random(n) : -1, start: random(100), duration: random(50), flags: random(6) ? 0 : 64, status: random(9) ? 0 : 2,
    }));
    const found = tree(spans, random(2) === 1);
    const rows = [...found.walk(null).nodes].filter((node) => node < n).sort((a, b) => a - b);
    const expected = spans.flatMap((_, row) => (found.spanParent[row] === -2 ? [] : [row]));
    assert.deepEqual(rows, expected);
  }
});

test("the critical path has the spans that determine the end and covers the whole duration", () => {
  const found = tree([
    { name: "root", start: 0, duration: 100 }, { name: "short", parent: 0, start: 10, duration: 20 }, { name: "long", parent: 0, start: 10, duration: 60 },
    { name: "last", parent: 0, start: 75, duration: 20 },
  ]);
  const path = criticalPath(found);
  assert.deepEqual([...path.keys()].sort(), [0, 2, 3]);
  const sum = [...path.values()].flat().reduce((total, value, i) => total + (i % 2 ? value : -value), 0);
  assert.equal(sum, 100);
});
