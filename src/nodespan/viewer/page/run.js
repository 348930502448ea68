// The page of a run: its head, the tabs of the four views, the view in sight, the details beside it.

import { createConversation } from "conversation";
import { createDetail } from "detail";
import { el, fill } from "dom";
import { dateTime, duration, integer, line, tokens } from "format";
import { createGraph } from "graph";
import { runsRoute, traceRoute, value, withQuery } from "router";
import { endOf } from "runs";
import { createWaterfall } from "waterfall";
import { createWrites } from "writes";

/** @type {[string, string, string, (app: App) => View][]} */
const VIEWS = [
  ["waterfall", "Waterfall", "w", createWaterfall], ["graph", "Graph", "g", createGraph],
  ["conversation", "Conversation", "c", createConversation], ["state", "State", "s", createWrites],
];

/** @param {Route} route @returns {string} */
export function viewOf(route) {
  const name = value(route, "view");
  return VIEWS.some(([known]) => known === name) ? name : "waterfall";
}

/** @param {App} app @returns {View} */
export function createRun(app) {
  const head = el("header", { class: "run-head" });
  const tabs = el("nav", { class: "tabs", "aria-label": "Views of the run" });
  const stage = el("div", { class: "stage" });
  const detail = createDetail(app);
  const split = el("div", { class: "split" }, stage, detail.element);
  const element = el("main", { class: "run-page", id: "main" }, head, tabs, split);
  /** @type {View | null} */
  let view = null;
  let viewName = "";

  /** @param {Readonly<AppState>} state @param {Set<string>} changed */
  function showView(state, changed) {
    const name = viewOf(state.route);
    if (name !== viewName) {
      view?.destroy?.();
      const create = VIEWS.find(([known]) => known === name)?.[3] ?? createWaterfall;
      view = create(app);
      viewName = name;
      fill(stage, view.element);
      changed = new Set([...changed, "route", "trace", "tree", "open", "span", "messages"]);
    }
    view?.update(/** @type {AppState} */ (state), changed);
  }

  return {
    element,
    key(name) {
      const chosen = VIEWS.find(([, , key]) => key === name);
      if (chosen) {
        app.patch({ view: chosen[0] === "waterfall" ? null : chosen[0] });
        return true;
      }
      if (view?.key?.(name)) return true;
      if (name !== "Enter" || detail.element.hidden) return false;
      detail.element.focus();
      return true;
    },
    update(state, changed) {
      const { trace, route } = state;
      if (changed.has("trace") || changed.has("route")) {
        fill(head, ...(trace ? headOf(app, state, trace) : []));
        fill(tabs, ...VIEWS.map(([name, word, key]) => el("a", {
          href: app.href(withQuery(route, { view: name === "waterfall" ? null : name })), class: "tab",
          "aria-current": viewOf(route) === name ? "page" : null, title: `${word} (${key})`,
        }, word)));
      }
      if (changed.has("tick") && trace?.isLive) fill(head.querySelector(".is-duration") ?? head, duration(trace.now()));
      if (!trace) {
        fill(stage, state.error ? null : el("p", { class: "empty" }, "Reading the run …"));
        viewName = "";
        view = null;
        detail.element.hidden = true;
        return;
      }
      showView(state, changed);
      detail.update(state, changed);
      split.classList.toggle("has-detail", !detail.element.hidden);
    },
    destroy() {
      view?.destroy?.();
    },
  };
}

/** @param {App} app @param {AppState} state @param {Trace} trace @returns {(HTMLElement | null)[]} */
function headOf(app, state, trace) {
  const { record } = trace;
  const end = endOf(record);
  const [input, output] = [sumOf(trace.tokens_in, trace.n), sumOf(trace.tokens_out, trace.n)];
  /** @type {[string, string][]} */
  const facts = [
    ["started", dateTime(record.start_ns / 1e6)], ["duration", duration(trace.isLive ? trace.now() : record.duration_s * 1e6)],
    ["spans", integer(trace.n)], ["tokens", input + output > 0 ? `${tokens(input)} in, ${tokens(output)} out` : "–"],
  ];
  return [
    el("div", { class: "run-title" },
      el("a", { href: app.href(runsRoute()), class: "up", "aria-label": "All runs", title: "All runs" }, "←"),
      el("h1", {}, line(record.name.replace(/^invoke_workflow /, ""))),
      el("span", { class: `badge is-${end.kind}` }, `${end.mark} ${end.text}`)),
    el("dl", { class: "run-facts" }, ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", { class: `is-${name}` }, text)])),
    related(app, state, trace),
  ];
}

/** @param {Int32Array} column @param {number} n @returns {number} */
function sumOf(column, n) {
  let sum = 0;
  for (let row = 0; row < n; row++) sum += Math.max(0, /** @type {number} */ (column[row]));
  return sum;
}

/** The run that it resumes, and the others of its conversation. @param {App} app @param {AppState} _state @param {Trace} trace */
function related(app, _state, trace) {
  /** @type {HTMLElement[]} */
  const parts = [];
  for (const run of trace.runs) {
    if (run.link) parts.push(el("a", { href: app.href(traceRoute(run.link.trace_id, { span: run.link.span_id })), class: "chip" }, `resumes run ${run.link.trace_id.slice(0, 8)}`));
  }
  for (const [id, others] of Object.entries(trace.conversations)) {
    parts.push(el("details", { class: "thread" },
      el("summary", {}, `conversation ${line(id)}`, el("span", { class: "dim" }, others.length ? ` · ${others.length} more` : "")),
      el("ul", {}, ...others.map((other) => el("li", {}, el("a", { href: app.href(traceRoute(other.trace_id)) }, line(other.name)),
        el("span", { class: "dim" }, ` ${dateTime(other.start_ns / 1e6)}`))),
      el("li", {}, el("a", { href: app.href(runsRoute({ conversation: id })) }, "all its runs")))));
  }
  return parts.length ? el("div", { class: "related" }, ...parts) : null;
}

