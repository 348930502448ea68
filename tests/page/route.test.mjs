import assert from "node:assert/strict";
import { test } from "node:test";
import { filtered } from "api";
import { upserted } from "live";
import { filterOf, href, parse, withQuery } from "router";
import { roundStep, scrollScale, ticks, zoomed } from "scale";
import { createStore, initialState } from "state";
import { record } from "./fixtures.mjs";

const at = (text) => parse(new URL(text, "http://127.0.0.1:7433"), false);

test("every route is the same after a way through its URL, from a server and from a file", () => {
  const routes = [at("/"), at("/?service=a%26b&tag=x&tag=y&meta=k%3Dv%2Bw&error=1"), at("/trace/abc123?view=graph&span=00ff&q=plan+act&row=a/iteration 3"), at("/?node=%E6%97%A5%20%22%3Cscript%3E")];
  for (const route of routes) {
    for (const isFile of [false, true]) {
      const address = new URL(href(route, isFile), isFile ? "file:///tmp/run.html" : "http://127.0.0.1:7433");
      assert.deepEqual(parse(address, isFile), route);
    }
  }
});

test("a path that is no page is the list, and an id is hexadecimal", () => {
  assert.equal(at("/trace/../etc/passwd").page, "runs");
  assert.equal(at("/trace/xyz").page, "runs");
  assert.equal(at("/trace/ABC").page, "runs");
});

test("the filter has the fields of the list only", () => {
  assert.equal(filterOf(at("/?service=a&view=graph&before=abc&group=conversation&tag=x&tag=y")).toString(), "service=a&tag=x&tag=y");
});

test("a patch removes what is empty and keeps the rest", () => {
  const route = withQuery(at("/?service=a&tag=x"), { service: "", tag: ["x", "y"], error: "1", node: null });
  assert.deepEqual(route.query, { tag: ["x", "y"], error: ["1"] });
});

test("a mailed file filters its runs itself", () => {
  const runs = [record({ trace_id: "1", labels: { service: ["a"], metadata: ["k=v"] } }), record({ trace_id: "2", labels: { service: ["b"] }, errors: 1, duration_s: 20 })];
  const ids = (query) => filtered(runs, at(query)).map((run) => run.trace_id);
  assert.deepEqual([ids("/"), ids("/?service=a"), ids("/?error=1"), ids("/?min=10"), ids("/?meta=k=v"), ids("/?service=a&error=1")], [["1", "2"], ["1"], ["2"], ["2"], ["1"], []]);
});

test("changed records replace known ones, new ones come on top", () => {
  const known = [record({ trace_id: "2", start_ns: 2 }), record({ trace_id: "1", start_ns: 1 })];
  const changed = [record({ trace_id: "1", start_ns: 1, errors: 4 }), record({ trace_id: "3", start_ns: 3 })];
  assert.deepEqual(upserted(known, changed, true, 50).map((each) => [each.trace_id, each.errors]), [["3", 0], ["2", 0], ["1", 4]]);
  assert.deepEqual(upserted(known, changed, false, 50).map((each) => each.trace_id), ["2", "1"]);
  assert.equal(upserted(known, changed, true, 2).length, 2);
});

test("ticks are round and about 110 pixels apart", () => {
  assert.deepEqual(ticks(0, 25_200_000, 560).ticks, [0, 10e6, 20e6]);
  assert.deepEqual([roundStep(3), roundStep(11), roundStep(90e6), roundStep(31e6)], [5, 20, 120e6, 60e6]);
  assert.deepEqual(ticks(0, 0, 100).ticks, []);
});

test("zooming keeps what is under the pointer and stays inside", () => {
  const { from, to } = zoomed({ from: 0, to: 1000 }, 250, 0.5, 1000);
  assert.ok(Math.abs((250 - from) / (to - from) - 0.25) < 1e-9);
  assert.deepEqual(zoomed({ from: 0, to: 10 }, 5, 1e9, 1000), { from: 0, to: 1000 });
  const far = zoomed({ from: 900, to: 1000 }, 1000, 2, 1000);
  assert.deepEqual(far, { from: 800, to: 1000 });
});

test("the last row is reached at the end of the scroll bar, also of a list that is too high for an element", () => {
  for (const rows of [10, 1000, 1_000_000]) {
    const scale = scrollScale(rows, 26, 600);
    assert.equal(scale.offset(Math.max(0, scale.height - 600)), Math.max(0, rows * 26 - 600));
    assert.equal(scale.offset(0), 0);
  }
  assert.equal(scrollScale(1000, 26, 600).offset(123), 123);
});

test("subscribers run once for several changes, with their names", () => {
  const pending = [];
  const store = createStore(initialState(at("/")), (run) => pending.push(run));
  const received = [];
  store.subscribe((_, changed) => received.push([...changed].sort()));
  store.set({ error: "a" });
  store.set({ help: true });
  pending.forEach((run) => run());
  assert.deepEqual(received, [["error", "help"]]);
});
