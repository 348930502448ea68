import assert from "node:assert/strict";
import { test } from "node:test";
import { asText, byMeaning, matches } from "attributes";
import { words } from "filters";
import { ago, duration, line, percent, phaseText, tokens, visible } from "format";
import { conversations, endOf, incomplete } from "runs";
import { record } from "./fixtures.mjs";

test("durations have three digits and the unit that fits", () => {
  const cases = [[0, "0"], [0.25, "250 ns"], [7.5, "7.50 µs"], [999.4, "999 µs"], [1000, "1.00 ms"], [999_600, "1.00 s"], [12_345_678, "12.3 s"], [59_960_000, "1 min 00 s"], [61e6, "1 min 01 s"], [3_725e6, "1 h 02 min"]];
  for (const [us, text] of cases) assert.equal(duration(us), text);
});

test("tokens, shares and ages", () => {
  assert.deepEqual([tokens(null), tokens(-1), tokens(842), tokens(12_345), tokens(3_100_000)], ["–", "–", "842", "12.3k", "3.10M"]);
  assert.deepEqual([percent(0, 0), percent(0, 5), percent(1, 1000), percent(62, 100)], ["–", "0 %", "< 1 %", "62 %"]);
  assert.deepEqual([ago(0, 42_000), ago(0, 7_200_000)], ["42 s ago", "2 h ago"]);
});

test("control characters, overrides and invisible ones are visible and harmless", () => {
  assert.equal(visible("\u001b[31mred\u001b[0m"), "␛[31mred␛[0m");
  assert.equal(visible("user\u202egnp.exe"), "user⟨U+202E⟩gnp.exe");
  assert.equal(visible("a\u0000b\u200bc\ufeffd\u2066e"), "a␀b⟨U+200B⟩c⟨U+FEFF⟩d⟨U+2066⟩e");
  assert.equal(visible("two\nlines\tand a tab"), "two\nlines\tand a tab");
  assert.equal(line("two\nlines"), "two⏎lines");
  assert.equal(visible("naïve 日本 🙂"), "naïve 日本 🙂");
});

test("phases read as sentences", () => {
  const phase = (more) => ({ name: "prefilling", since_ns: 0, at_ns: 0, done: null, total: null, position: null, text: "", ...more });
  assert.equal(phaseText(phase({ done: 812, total: 1310 })), "prefilling 62 % of 1\u202f310 tokens");
  assert.equal(phaseText(phase({ name: "queued", position: 2 })), "queued, 2 before it");
  assert.equal(phaseText(phase({ name: "decoding", done: 18 })), "decoding, 18 tokens");
  assert.equal(phaseText(null), "");
});

test("how a run has ended", () => {
  const kind = (more) => endOf(record(more)).kind;
  assert.deepEqual([kind({}), kind({ errors: 1 }), kind({ state: "lost", errors: 1 }), kind({ state: "silent" }), kind({ state: "running" }), kind({ is_interrupted: true })],
    ["ok", "error", "lost", "silent", "running", "interrupted"]);
});

test("each attribute is in exactly one group", () => {
  const attributes = { "gen_ai.usage.input_tokens": 1, "gen_ai.request.model": "m", "langgraph.node": "plan", "nodespan.queue_s": 0.1, "error.type": "E", "http.method": "GET", strange: 1, "user.id": "u", "gen_ai.tool.name": "t" };
  const groups = byMeaning(attributes);
  assert.deepEqual(groups.flatMap(([, entries]) => entries.map(([name]) => name)).sort(), Object.keys(attributes).sort());
  assert.deepEqual(groups.map(([title]) => title), ["Error", "Tokens", "Time", "Model", "Tool", "Graph", "People and conversations", "Network", "Other"]);
});

test("attributes are found by name and by value", () => {
  assert.equal(matches(["gen_ai.request.model", "SmolLM2"], "smol"), true);
  assert.equal(matches(["gen_ai.request.model", "SmolLM2"], "request"), true);
  assert.equal(matches(["nodespan.attempt", 3], "4"), false);
  assert.equal(asText('[{"role":"user"}]'), '[\n  {\n    "role": "user"\n  }\n]');
  assert.equal(asText("[not json"), "[not json");
});

test("runs are grouped by conversation in the order of their newest run", () => {
  const traces = [["1", "b"], ["2", undefined], ["3", "a"], ["4", "b"]].map(([trace_id, id]) => record({ trace_id, labels: id ? { conversation: [id] } : {} }));
  assert.deepEqual(conversations(traces).map(([id, each]) => [id, each.map((trace) => trace.trace_id)]), [["b", ["1", "4"]], ["a", ["3"]], ["", ["2"]]]);
});

test("active filters have words", () => {
  assert.equal(words("min", "10"), "at least 10.0 s");
  assert.equal(words("meta", "team=a"), "metadata: team=a");
  assert.equal(words("error", "1"), "with errors");
});

test("a list from which runs are missing states why", () => {
  const why = (status) => incomplete({ traces: [], next: null, cursor: "", now_ns: 0, status: { path: "/x", spans: 200, indexed_spans: 200, untracked: 0, ...status } });
  assert.equal(incomplete({ traces: [], next: null, cursor: "", now_ns: 0 }), "");
  assert.equal(why({}), "");
  assert.match(why({ indexed_spans: 50 }), /^25 % of the spans are indexed/);
  assert.match(why({ path: "memory" }), /NODESPAN_STORE=memory/);
  assert.match(why({ untracked: 7 }), /^So far 7 spans of programs that still run were not shown while open/);
});
