// The panel of the selected span or group.

import { asText, byMeaning, matches } from "attributes";
import { button, el, fill } from "dom";
import { clock, duration, integer, line, phaseText, tokens, visible } from "format";
import { lens } from "lens";
import { traceRoute } from "router";
import { split } from "rows";
import { median } from "sparkline";

const LONG = 1500;

/** @param {App} app @returns {View} */
export function createDetail(app) {
  const search = el("input", { type: "search", placeholder: "Search attributes", "aria-label": "Search attributes", spellcheck: "false", autocomplete: "off", oninput: () => renderAttributes() });
  const head = el("div", { class: "detail-head" });
  const body = el("div", { class: "detail-body" });
  const attributes = el("div", { class: "attributes" });
  const element = el("aside", { class: "detail", "aria-label": "Details of the selected span", tabindex: "-1" }, head, body);
  let shown = "";

  function renderAttributes() {
    const { span } = app.store.get();
    fill(attributes, ...(span ? sections(span, search.value.trim().toLowerCase()) : []));
  }

  return {
    element,
    update(state, changed) {
      const { tree, span } = state;
      const node = tree ? app.cursor() : -1;
      element.hidden = !tree || node < 0;
      if (!tree || node < 0) {
        shown = "";
        return;
      }
      const key = tree.keyOf(node);
      const isOther = key !== shown;
      if (!isOther && !changed.has("span") && !changed.has("tree")) return;
      shown = key;
      if (isOther) element.scrollTop = 0;
      if (node >= tree.n) {
        fill(head, ...groupHead(app, tree, node));
        fill(body, groupFacts(tree, node), members(app, tree, node));
        return;
      }
      const record = span && span.span_id === tree.trace.idOf(node) ? span : null;
      fill(head, ...spanHead(app, tree, node, record));
      fill(body, facts(tree, node, record), lens(tree, node, record), exceptions(record), events(tree, record), links(app, record),
        record ? el("div", { class: "search" }, search) : el("p", { class: "dim" }, app.api.hasAttributes ? "Reading the attributes …" : "This file was exported without attributes."),
        attributes);
      renderAttributes();
    },
  };
}

/** @param {App} app @param {Tree} tree @param {number} row @param {SpanRecord | null} record @returns {HTMLElement[]} */
function spanHead(app, tree, row, record) {
  const { op, name } = split(tree.trace, row);
  const buttons = el("div", { class: "actions" },
    record ? button("Copy JSON", () => copy(app, JSON.stringify(record, null, 1)), { title: "Copy the span as JSON" }) : null,
    record?.jaeger_url && /^https?:\/\//.test(record.jaeger_url) ? el("a", { class: "button", href: record.jaeger_url, rel: "noreferrer", target: "_blank" }, "Open in Jaeger") : null,
    button("×", () => app.select(-1), { class: "close", "aria-label": "Close the details" }));
  return [el("h2", {}, op ? el("span", { class: "op" }, `${op} `) : null, name), buttons];
}

/** @param {App} app @param {string} text */
async function copy(app, text) {
  try {
    await navigator.clipboard.writeText(text);
    app.notify("Copied.");
  } catch {
    app.notify("The browser did not allow copying.");
  }
}

/** @param {Tree} tree @param {number} row @param {SpanRecord | null} record */
function facts(tree, row, record) {
  const { trace } = tree;
  const start = /** @type {number} */ (trace.start[row]);
  /** @type {[string, string][]} */
  const list = [["Duration", duration(trace.end(row, trace.now()) - start)], ["Start", `+ ${duration(start)} at ${clock(trace.t0Ms + start / 1000)}`]];
  list.push(["State", stateText(trace, row)]);
  const [input, output] = [trace.tokens_in[row] ?? -1, trace.tokens_out[row] ?? -1];
  if (input >= 0 || output >= 0) list.push(["Tokens", `${tokens(input)} in, ${tokens(output)} out`]);
  const step = trace.step[row] ?? -1;
  if (step >= 0) list.push(["Step", String(step)]);
  list.push(["Service", line(trace.text("service", row)) || "–"]);
  if (record?.status_message) list.push(["Message", visible(record.status_message)]);
  if (record?.process) list.push(["Process", `${record.process.pid}`]);
  list.push(["Span id", trace.idOf(row)]);
  return definitions(list);
}

/** @param {[string, string | HTMLElement][]} list */
function definitions(list) {
  return el("dl", { class: "facts" }, ...list.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

/** @param {Trace} trace @param {number} row @returns {string} */
function stateText(trace, row) {
  const phase = phaseText(trace.phases.get(row));
  if (trace.state[row] === 3) {
    const heartbeat = trace.processes.get(row)?.heartbeat_ns;
    return `lost${heartbeat ? ` at ${clock(heartbeat / 1e6)}` : ""}${phase ? ` while ${phase}` : ""}`;
  }
  if (trace.state[row] === 2) return "silent: its process does not answer";
  if (trace.state[row] === 1) return phase ? `running: ${phase}` : "running";
  const words = [trace.status[row] === 2 ? "error" : "ended"];
  const flags = trace.flags[row] ?? 0;
  if (flags & 1) words.push("interrupted");
  if (flags & 2) words.push("cancelled");
  if (flags & 4) words.push("retried");
  if (flags & 256) words.push("from the cache");
  return words.join(", ");
}

/** @param {SpanRecord | null} record */
function exceptions(record) {
  const found = record?.events.filter((event) => event.name === "exception") ?? [];
  if (!found.length) return null;
  return el("section", { class: "exceptions", "aria-label": "Exceptions" }, ...found.map((event) => {
    const text = (/** @type {string} */ name) => visible(String(event.attributes[`exception.${name}`] ?? ""));
    return el("div", { class: "exception" }, el("h3", {}, text("type") || "exception"), el("p", {}, text("message")), text("stacktrace") ? stackOf(text("stacktrace")) : null);
  }));
}

/** @param {string} stack Of Python or another language; the lines that name a file are set apart. */
function stackOf(stack) {
  const lines = stack.split("\n").map((each) => el("span", { class: /^\s*(File |at )/.test(each) ? "frame" : "code" }, `${each}\n`));
  return el("details", { open: true }, el("summary", {}, "Stack"), el("pre", { class: "stacktrace", tabindex: "0" }, ...lines));
}

/** @param {Tree} tree @param {SpanRecord | null} record */
function events(tree, record) {
  const found = record?.events.filter((event) => event.name !== "exception") ?? [];
  if (!found.length) return null;
  return el("section", { "aria-label": "Events" }, el("h3", {}, "Events"), ...found.map((event) => {
    const rows = Object.entries(event.attributes).map((entry) => attributeRow(entry));
    return el("details", { class: "event" },
      el("summary", {}, line(event.name), el("span", { class: "dim" }, ` + ${duration(event.time_ns / 1000 - tree.trace.t0Ms * 1000)}`)),
      rows.length ? el("table", {}, el("tbody", {}, ...rows)) : el("p", { class: "dim" }, "No attributes."));
  }));
}

/** @param {App} app @param {SpanRecord | null} record */
function links(app, record) {
  if (!record?.links.length) return null;
  return el("section", { "aria-label": "Links" }, el("h3", {}, "Links"), el("ul", { class: "links" }, ...record.links.map((link) => {
    const kind = link.attributes["nodespan.link"];
    return el("li", {}, kind ? `${line(String(kind)).replace(/_/g, " ")} ` : "", el("a", { href: app.href(traceRoute(link.trace_id, { span: link.span_id })) }, `span ${link.span_id} of run ${link.trace_id.slice(0, 8)}`));
  })));
}

/** @param {SpanRecord} span @param {string} needle @returns {HTMLElement[]} */
function sections(span, needle) {
  /** @type {[string, Record<string, unknown>][]} */
  const extra = [["Node metadata", span.node_metadata ?? {}], ["Resource", { ...span.resource, "otel.scope.name": span.scope, "otel.span.kind": span.kind }]];
  const groups = [...byMeaning(span.attributes), ...extra.map(([title, record]) => /** @type {[string, [string, unknown][]]} */ ([title, Object.entries(record)]))];
  const shown = groups.map(([title, entries]) => /** @type {const} */ ([title, entries.filter((entry) => matches(entry, needle))])).filter(([, entries]) => entries.length);
  if (!shown.length) return [el("p", { class: "dim" }, needle ? "No attribute contains this text." : "No attributes.")];
  return shown.map(([title, entries]) => el("details", { class: "meaning", open: needle !== "" || title !== "Resource" },
    el("summary", {}, title, el("span", { class: "dim" }, ` ${entries.length}`)), el("table", {}, el("tbody", {}, ...entries.map(attributeRow)))));
}

/** @param {[string, unknown]} entry */
function attributeRow([name, given]) {
  const text = visible(asText(given));
  const cell = el("td", {}, text.length > LONG ? text.slice(0, LONG) : text);
  if (text.length > LONG) cell.append("… ", button(`all ${integer(text.length)} characters`, () => fill(cell, text)));
  if (text.includes("\n")) cell.className = "block";
  return el("tr", {}, el("th", { scope: "row" }, line(name)), cell);
}

/** @param {App} app @param {Tree} tree @param {number} node @returns {HTMLElement[]} */
function groupHead(app, tree, node) {
  const group = tree.groupOf(node);
  return [el("h2", {}, line(group.label), group.kind === "fold" ? ` ×${integer(group.count)}` : ""),
    el("div", { class: "actions" }, button("×", () => app.select(-1), { class: "close", "aria-label": "Close the details" }))];
}

/** @param {Tree} tree @param {number} node */
function groupFacts(tree, node) {
  const now = tree.trace.now();
  const spans = tree.groupOf(node).members.filter((member) => member < tree.n);
  const lengths = spans.map((row) => tree.endOf(row, now) - tree.startOf(row));
  const sum = (/** @type {Int32Array} */ column) => spans.reduce((total, row) => total + Math.max(0, column[row] ?? 0), 0);
  /** @type {[string, string][]} */
  const list = [["From start to end", duration(tree.endOf(node, now) - tree.startOf(node))], ["Spans", integer(tree.groupOf(node).count)]];
  if (lengths.length > 1) list.push(["Shortest", duration(Math.min(...lengths))], ["Median", duration(median(lengths))], ["Longest", duration(Math.max(...lengths))]);
  const [input, output] = [sum(tree.trace.tokens_in), sum(tree.trace.tokens_out)];
  if (input + output > 0) list.push(["Tokens", `${tokens(input)} in, ${tokens(output)} out`]);
  const errors = tree.errors?.[node] ?? 0;
  if (errors) list.push(["Errors", integer(errors)]);
  return definitions(list);
}

/** @param {App} app @param {Tree} tree @param {number} node The longest of its members, as ways into it. */
function members(app, tree, node) {
  const now = tree.trace.now();
  const spans = tree.groupOf(node).members.filter((member) => member < tree.n);
  const longest = [...spans].sort((a, b) => tree.endOf(b, now) - tree.startOf(b) - (tree.endOf(a, now) - tree.startOf(a))).slice(0, 10);
  return el("section", { "aria-label": "Longest" }, el("h3", {}, "Longest"), el("ol", { class: "longest" }, ...longest.map((row) =>
    el("li", {}, button(`${split(tree.trace, row).name}`, () => app.select(row), { class: "link" }), el("span", { class: "dim" }, ` ${duration(tree.endOf(row, now) - tree.startOf(row))}`)))));
}

