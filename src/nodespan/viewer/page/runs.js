// The page of runs: filter bar, sparklines, the list, conversations as a second grouping.

import { button, el, fill, isTyping } from "dom";
import { ago, dateTime, duration, integer, line, percent, phaseText, tokens } from "format";
import { createFilters } from "filters";
import { press, rowKeys } from "keys";
import { runsRoute, traceRoute, value, withQuery } from "router";
import { sparklines } from "sparkline";

/** @param {App} app @returns {View} */
export function createRuns(app) {
  const filters = createFilters(app);
  const trends = el("div", { class: "trends" });
  const list = el("div", { class: "runs" });
  const note = el("p", { class: "notice", role: "note", hidden: true });
  const pager = el("nav", { class: "pager", "aria-label": "Pages" });
  const element = el("main", { class: "page", id: "main" }, el("h1", { class: "hidden-text" }, "Runs"), filters.element, note, trends, list, pager);
  let cursor = "";

  /** @returns {HTMLElement[]} */
  const rows = () => /** @type {HTMLElement[]} */ ([...list.querySelectorAll("tr[data-id]")]);

  /** @param {number} by */
  function move(by) {
    const all = rows();
    const at = all.findIndex((row) => row.dataset["id"] === cursor);
    const next = all[at < 0 ? 0 : Math.min(Math.max(0, at + by), all.length - 1)];
    if (!next) return;
    cursor = next.dataset["id"] ?? "";
    mark();
    /** @type {HTMLElement | null} */ (next.querySelector("a"))?.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  }

  function mark() {
    for (const row of rows()) row.classList.toggle("is-cursor", row.dataset["id"] === cursor);
  }

  /** @type {Record<string, () => void>} */
  const keys = {
    ...rowKeys(move),
    Enter: () => cursor && app.go(traceRoute(cursor)), l: () => cursor && app.go(traceRoute(cursor)),
    "/": () => filters.focus(),
    e: () => moveToError(rows(), cursor, (id) => {
      cursor = id;
      mark();
    }),
    c: () => app.patch({ group: value(app.store.get().route, "group") ? null : "conversation" }),
    "]": () => app.store.get().runs?.next && app.patch({ before: app.store.get().runs?.next ?? null }),
    "[": () => value(app.store.get().route, "before") && history.back(),
  };

  return {
    element,
    key(name) {
      if (name === "Enter" && document.activeElement instanceof HTMLAnchorElement) return false;
      return press(keys, name);
    },
    update(state, changed) {
      filters.update(state);
      const { runs } = state;
      if (changed.has("tick") && runs) tick(list, runs, Date.now() + state.clockMs);
      if (!changed.has("runs") && !changed.has("route")) return;
      if (!runs) {
        fill(list, state.error ? null : el("p", { class: "empty" }, "Reading the store …"));
        return;
      }
      fill(note, incomplete(runs));
      note.hidden = !note.textContent;
      const hadFocus = list.contains(document.activeElement);
      fill(trends, ...sparklines(runs.traces));
      const isGrouped = value(state.route, "group") === "conversation";
      fill(list, runs.traces.length ? table(app, runs, isGrouped) : nothing(state));
      fill(pager, ...pages(app, state, runs));
      mark();
      if (hadFocus && !isTyping(document.activeElement)) /** @type {HTMLElement | null} */ (list.querySelector(".is-cursor a"))?.focus({ preventScroll: true });
    },
  };
}

/** @param {RunsDocument} runs @returns {string} Why runs are missing from the list; empty if none are. */
export function incomplete({ status }) {
  if (!status) return "";
  if (status.path === "memory") return "NODESPAN_STORE=memory: this viewer shows only spans that are sent to its address, until it ends.";
  if (status.indexed_spans < status.spans) return `${percent(status.indexed_spans, status.spans)} of the spans are indexed, newest first. Older runs are listed as the index grows.`;
  if (status.untracked) return `So far ${integer(status.untracked)} spans of programs that still run were not shown while open: 10 000 of a program are.`;
  return "";
}

/** @param {HTMLElement} list @param {RunsDocument} runs @param {number} nowMs Keeps ages and the durations of what runs right. */
function tick(list, runs, nowMs) {
  const rows = /** @type {NodeListOf<HTMLElement>} */ (list.querySelectorAll("tr[data-id]"));
  const records = new Map(runs.traces.map((trace) => [trace.trace_id, trace]));
  for (const row of rows) {
    const trace = records.get(row.dataset["id"] ?? "");
    if (!trace) continue;
    const startMs = trace.start_ns / 1e6;
    fill(row.querySelector("time") ?? row, ago(startMs, nowMs));
    if (trace.state === "running" || trace.state === "silent") fill(row.querySelector(".took") ?? row, duration((nowMs - startMs) * 1000));
  }
}

/** @param {HTMLElement[]} rows @param {string} cursor @param {(id: string) => void} found */
function moveToError(rows, cursor, found) {
  const at = rows.findIndex((row) => row.dataset["id"] === cursor);
  const next = rows.slice(at + 1).concat(rows.slice(0, at + 1)).find((row) => row.classList.contains("is-error"));
  if (!next) return;
  found(next.dataset["id"] ?? "");
  next.scrollIntoView({ block: "nearest" });
}

/** @param {Readonly<AppState>} state */
function nothing(state) {
  const isFiltered = Object.keys(state.route.query).length > 0;
  return el("div", { class: "empty" },
    el("p", {}, isFiltered ? "No run matches this filter." : "No run is stored yet."),
    isFiltered ? null : el("p", {}, "Type ", el("code", {}, "make demo"), " or start a program that calls ", el("code", {}, "nodespan.configure()"), "; its run appears here while it runs."));
}

/** @param {App} app @param {RunsDocument} runs @param {boolean} isGrouped */
function table(app, runs, isGrouped) {
  const longest = Math.max(...runs.traces.map((trace) => trace.duration_s));
  const nowMs = runs.now_ns ? runs.now_ns / 1e6 : Date.now();
  const head = el("thead", {}, el("tr", {},
    el("th", { scope: "col" }, "Run"), el("th", { scope: "col" }, "Started"), el("th", { scope: "col", class: "number" }, "Duration"),
    el("th", { scope: "col", class: "number" }, "Tokens in / out"), el("th", { scope: "col" }, "End")));
  const row = (/** @type {TraceRecord} */ trace) => runRow(app, trace, longest, nowMs);
  if (!isGrouped) return el("table", { "aria-label": "Runs" }, head, el("tbody", {}, ...runs.traces.map(row)));
  const bodies = conversations(runs.traces).map(([id, traces]) => el("tbody", {}, groupRow(app, id, traces), ...traces.map(row)));
  return el("table", { "aria-label": "Runs by conversation", class: "is-grouped" }, head, ...bodies);
}

/** @param {TraceRecord[]} traces @returns {[string, TraceRecord[]][]} Conversations, the one with the newest run first; runs without one last. */
export function conversations(traces) {
  /** @type {Map<string, TraceRecord[]>} */
  const groups = new Map();
  for (const trace of traces) {
    const id = trace.labels["conversation"]?.[0] ?? "";
    const group = groups.get(id);
    if (group) group.push(trace);
    else groups.set(id, [trace]);
  }
  return [...groups].sort(([a], [b]) => Number(a === "") - Number(b === ""));
}

/** @param {App} app @param {string} id @param {TraceRecord[]} traces */
function groupRow(app, id, traces) {
  const seconds = traces.reduce((sum, trace) => sum + trace.duration_s, 0);
  const name = id ? el("a", { href: app.href(runsRoute({ conversation: id, group: "conversation" })) }, line(id)) : "without a conversation";
  return el("tr", { class: "group" }, el("th", { colspan: 5, scope: "rowgroup" }, id ? "Conversation " : "", name,
    el("span", { class: "dim" }, ` ${integer(traces.length)} ${traces.length === 1 ? "run" : "runs"} · ${duration(seconds * 1e6)}`)));
}

/** @param {App} app @param {TraceRecord} trace @param {number} longest @param {number} nowMs */
function runRow(app, trace, longest, nowMs) {
  const end = endOf(trace);
  const startMs = trace.start_ns / 1e6;
  const name = el("a", { class: "title", href: app.href(traceRoute(trace.trace_id)) }, line(trace.name.replace(/^invoke_workflow /, "")));
  const meter = el("span", { class: "meter", "aria-hidden": "true" }, el("span", {}));
  /** @type {HTMLElement} */ (meter.firstChild).style.width = `${longest > 0 ? Math.max(1, (100 * trace.duration_s) / longest) : 0}%`;
  return el("tr", { "data-id": trace.trace_id, class: `is-${end.kind}`, onclick: (/** @type {MouseEvent} */ event) => {
    if (!(event.target instanceof HTMLElement && event.target.closest("a, button"))) app.go(traceRoute(trace.trace_id));
  } },
  el("td", { class: "run" }, el("span", { class: `state is-${end.kind}`, "aria-hidden": "true" }, end.mark), el("div", {}, name, subtitle(app, trace))),
  el("td", { class: "when" }, el("time", { datetime: new Date(startMs).toISOString(), title: dateTime(startMs) }, ago(startMs, nowMs))),
  el("td", { class: "number" }, el("span", { class: "took" }, duration(trace.duration_s * 1e6)), meter),
  el("td", { class: "number" }, hasTokens(trace) ? `${tokens(trace.tokens_in)} / ${tokens(trace.tokens_out)}` : "–"),
  el("td", { class: "end" }, end.text));
}

/** @param {TraceRecord} trace */
function hasTokens(trace) {
  return (trace.tokens_in ?? null) !== null || (trace.tokens_out ?? null) !== null;
}

/** @param {App} app @param {TraceRecord} trace */
function subtitle(app, trace) {
  const parts = el("div", { class: "sub" });
  const chip = (/** @type {string} */ name, /** @type {string} */ text) =>
    button(line(text), () => app.go(withQuery(app.store.get().route, { [name]: text, before: null })), { class: "chip", title: `Only runs with ${name} ${line(text)}` });
  if (trace.service) parts.append(chip("service", trace.service));
  for (const model of (trace.labels["model"] ?? []).slice(0, 2)) parts.append(chip("model", model));
  for (const tag of (trace.labels["tag"] ?? []).slice(0, 3)) parts.append(chip("tag", tag));
  parts.append(el("span", { class: "dim" }, `${integer(trace.spans + trace.running + trace.lost)} spans`));
  if (trace.resumes) parts.append(el("a", { class: "resumes", href: app.href(traceRoute(trace.resumes)) }, `resumes ${trace.resumes.slice(0, 8)}`));
  return parts;
}

/**
 * The end of a run, or its current phase.
 * @param {TraceRecord} trace @returns {{ kind: string, mark: string, text: string }}
 */
export function endOf(trace) {
  if (trace.state === "running") return { kind: "running", mark: "●", text: phaseText(trace.phase) || "running" };
  if (trace.state === "silent") return { kind: "silent", mark: "◌", text: "silent: its process does not answer" };
  if (trace.state === "lost") {
    const phase = phaseText(trace.phase);
    return { kind: "lost", mark: "†", text: `lost${phase ? ` while ${phase}` : ""}` };
  }
  if (trace.errors) return { kind: "error", mark: "✕", text: trace.errors === 1 ? "1 error" : `${integer(trace.errors)} errors` };
  if (trace.is_interrupted) return { kind: "interrupted", mark: "‖", text: "interrupted" };
  return { kind: "ok", mark: "✓", text: "ok" };
}

/** @param {App} app @param {Readonly<AppState>} state @param {RunsDocument} runs @returns {(HTMLElement | null)[]} */
function pages(app, state, runs) {
  const { route } = state;
  return [
    value(route, "before") ? el("a", { href: app.href(withQuery(route, { before: null })) }, "⇤ Newest") : null,
    runs.next ? el("a", { href: app.href(withQuery(route, { before: runs.next })), rel: "next" }, "Older →") : null,
  ];
}
