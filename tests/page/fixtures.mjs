// Documents of the viewer for unit tests, from short descriptions.

/**
 * A trace's document from a list of spans. A span is `{ name, parent, start, duration }` with anything of `operation`,
 * `node`, `step`, `state`, `status`, `flags`, `tokens_in`, `tokens_out`, `edges`, `writes`; `parent` is a row.
 */
export function traceDocument(spans, more = {}) {
  const strings = [""];
  const text = (value = "") => {
    const at = strings.indexOf(value);
    return at >= 0 ? at : strings.push(value) - 1;
  };
  const columns = { n: spans.length };
  const column = (name, get) => (columns[name] = spans.map(get));
  column("id", (span, i) => span.id ?? i.toString(16).padStart(16, "0"));
  column("parent", (span) => span.parent ?? -1);
  for (const name of ["name", "service", "scope", "operation", "node"]) column(name, (span) => text(span[name]));
  for (const name of ["kind", "start", "duration", "state", "status", "flags"]) column(name, (span) => span[name] ?? 0);
  for (const name of ["step", "tokens_in", "tokens_out", "cached"]) column(name, (span) => span[name] ?? -1);
  const byRow = (name) => Object.fromEntries(spans.map((span, i) => [i, span[name]]).filter(([, value]) => value));
  return {
    trace: record(), cursor: "1", t0_ns: "1764000000000000000", now_us: 10_000_000, strings, spans: columns,
    phases: byRow("phase"), processes: {}, edges: byRow("edges"), writes: byRow("writes"), prefixes: byRow("prefix"),
    graphs: {}, runs: spans.flatMap((span, row) => (span.operation === "invoke_workflow" ? [{ row, graph: span.graph ?? null, link: null }] : [])),
    conversations: {}, ...more,
  };
}

/** What has changed, from spans with `parent_id` in place of `parent`. */
export function delta(spans, more = {}) {
  const { strings, spans: columns, phases, edges, writes } = traceDocument(spans);
  delete columns.parent;
  columns.parent_id = spans.map((span) => span.parent_id ?? "");
  return { trace: record(), strings, spans: columns, phases, processes: {}, edges, writes, open: null, is_reset: false, ...more };
}

export function record(more = {}) {
  return {
    trace_id: "a".repeat(32), name: "invoke_workflow guide", service: "guide", start_ns: 1764000000000000000, end_ns: null, duration_s: 1,
    state: "ended", spans: 1, errors: 0, running: 0, lost: 0, phase: null, labels: {}, ...more,
  };
}

/** A run of a graph whose nodes are executed one after the other: `[["plan", 1], ["act", 2]]` are names and steps. */
export function runOf(executions, more = []) {
  const run = { name: "invoke_workflow guide", operation: "invoke_workflow", start: 0, duration: executions.length * 10 };
  return [run, ...executions.map(([node, step, extra], i) => ({
    name: `invoke_node ${node}`, operation: "invoke_node", node, step, parent: 0, start: i * 10, duration: 9, ...extra,
  })), ...more];
}
