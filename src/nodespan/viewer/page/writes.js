// The state view: what each node execution wrote into the graph's channels, in order.

import { asText } from "attributes";
import { button, el, fill } from "dom";
import { bytes, duration, line, visible } from "format";
import { press, rowKeys } from "keys";

const LONG = 600;
const ROWS_MAX = 500;

/** @typedef {{ row: number, writes: WriteRecord[] }} Execution */

/** @param {Trace} trace @returns {Execution[]} Executions with writes, by end. */
export function executions(trace) {
  const now = trace.now();
  return [...trace.writes].filter(([, writes]) => writes.length).map(([row, writes]) => ({ row, writes }))
    .sort((a, b) => trace.end(a.row, now) - trace.end(b.row, now) || a.row - b.row);
}

/**
 * Whether a write changed its channel, by the hash of the previous write to it.
 * @param {Execution[]} list @returns {Map<WriteRecord, "first" | "changed" | "same" | "unknown">}
 */
export function changes(list) {
  /** @type {Map<string, string | null>} */
  const last = new Map();
  /** @type {Map<WriteRecord, "first" | "changed" | "same" | "unknown">} */
  const found = new Map();
  for (const { writes } of list) {
    for (const write of writes) {
      const before = last.get(write.channel);
      found.set(write, !last.has(write.channel) ? "first" : write.hmac === null || before === null ? "unknown" : write.hmac === before ? "same" : "changed");
      last.set(write.channel, write.hmac);
    }
  }
  return found;
}

/** @param {App} app @returns {View} */
export function createWrites(app) {
  const element = el("section", { class: "writes", "aria-label": "State", tabindex: "0" });
  let limit = ROWS_MAX;

  /** @returns {HTMLElement[]} */
  const items = () => /** @type {HTMLElement[]} */ ([...element.querySelectorAll(".execution")]);

  /** @param {number} by */
  function move(by) {
    const all = items();
    const at = all.findIndex((item) => item.dataset["row"] === String(app.cursor()));
    const next = all[at < 0 ? 0 : Math.min(Math.max(0, at + by), all.length - 1)];
    if (next) app.select(Number(next.dataset["row"]));
  }

  function render() {
    const { trace } = app.store.get();
    const list = trace ? executions(trace) : [];
    if (!trace || !list.length) {
      fill(element, el("p", { class: "empty" }, "No node of this run wrote to the graph's state, or the run was recorded without its writes."));
      return;
    }
    const kinds = changes(list);
    const shown = list.slice(0, limit).map((execution) => card(app, trace, execution, kinds));
    fill(element, el("ol", { class: "executions" }, ...shown), list.length > limit ? button(`Show ${list.length - limit} more`, () => {
      limit += ROWS_MAX;
      render();
      mark();
    }) : null);
  }

  function mark() {
    const row = String(app.cursor());
    for (const item of items()) {
      const isSelected = item.dataset["row"] === row;
      if (isSelected && !item.classList.contains("is-selected")) item.scrollIntoView({ block: "nearest" });
      item.classList.toggle("is-selected", isSelected);
    }
  }

  const keys = rowKeys(move);

  return {
    element,
    key: (name) => press(keys, name),
    update(_state, changed) {
      if (changed.has("trace")) render();
      mark();
    },
  };
}

/** @param {App} app @param {Trace} trace @param {Execution} execution @param {ReturnType<typeof changes>} kinds */
function card(app, trace, { row, writes }, kinds) {
  const name = line(trace.text("node", row) || trace.text("name", row));
  const step = trace.step[row] ?? -1;
  return el("li", { class: "execution", "data-row": row, onclick: () => app.select(row) },
    el("h3", {}, name, el("span", { class: "dim" }, `${step >= 0 ? ` · step ${step}` : ""} · + ${duration(trace.end(row, trace.now()))}`)),
    el("table", {}, el("tbody", {}, ...writes.map((write) => writeRow(write, kinds.get(write) ?? "unknown")))));
}

/** @param {WriteRecord} write @param {"first" | "changed" | "same" | "unknown"} kind */
function writeRow(write, kind) {
  const words = { first: "first write", changed: "changed", same: "same value", unknown: "" };
  const cell = el("td", { class: "value" });
  if (write.value !== null) {
    const text = visible(asText(write.value));
    fill(cell, text.length > LONG ? text.slice(0, LONG) : text);
    if (text.length > LONG) cell.append("… ", button("all", (() => fill(cell, text))));
  } else fill(cell, el("span", { class: "dim" }, write.hmac ? `hmac ${write.hmac}` : "no canonical form"));
  return el("tr", { class: `is-${kind}` }, el("th", { scope: "row" }, line(write.channel)), el("td", {}, el("span", { class: "type" }, line(write.type)),
    el("span", { class: "dim" }, write.size_bytes === null ? "" : ` ${bytes(write.size_bytes)}`)), el("td", { class: "change" }, words[kind]), cell);
}
