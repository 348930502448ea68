// The entry point of the page: the store, the route, the keys, and the shown page.

import { embedded, fileApi, serverApi, startSession } from "api";
import { button, el, fill } from "dom";
import { helpDialog, listen, press } from "keys";
import { href, parse, runsRoute, value, withQuery } from "router";
import { createRun } from "run";
import { createRuns } from "runs";
import { createSession } from "session";
import { createStore, initialState } from "state";
import { ALL } from "tree";

const data = await embedded();
const api = data ? fileApi(data) : serverApi();
const isFile = api.isFile;
const store = createStore(initialState(parse(new URL(location.href), isFile)));
const session = createSession(store, api);

const liveMark = el("span", { class: "live", role: "status" });
const errorBar = el("div", { class: "error-bar", role: "alert", hidden: true });
const stage = el("div", { id: "stage" });
const toast = el("div", { class: "toast", role: "status" });
const help = helpDialog(() => store.set({ help: false }));
let toastTimer = 0;

/** @type {App} */
const app = {
  store,
  api,
  href: (route) => href(route, isFile),
  go(route, replace = false) {
    const address = href(route, isFile);
    if (replace) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    routeChanged();
  },
  patch: (query, replace = false) => app.go(withQuery(store.get().route, query), replace),
  select(row) {
    const { tree } = store.get();
    if (tree && row >= 0) reveal(row);
    app.patch({ span: tree && row >= 0 ? tree.keyOf(row) : null, row: null }, true);
  },
  moveTo(node) {
    const { tree } = store.get();
    if (!tree) return;
    if (node < tree.n) app.patch({ span: tree.keyOf(node), row: null }, true);
    else app.patch({ span: null, row: tree.keyOf(node) }, true);
  },
  cursor() {
    const { tree, route } = store.get();
    if (!tree) return -1;
    const span = value(route, "span");
    if (span) return tree.trace.rowOf(span);
    const key = value(route, "row");
    const index = key ? tree.groups.findIndex((group) => group.key === key) : -1;
    return index < 0 ? -1 : tree.n + index;
  },
  toggle(node, open) {
    const { tree, open: choices } = store.get();
    if (!tree || node < 0) return;
    store.set({ open: new Map(choices).set(tree.keyOf(node), open ?? !tree.isOpen(node, choices)) });
  },
  openAll: () => store.set({ open: store.get().open.has(ALL) ? new Map() : new Map([[ALL, true]]) }),
  notify(text) {
    fill(toast, text);
    toast.classList.add("is-shown");
    clearTimeout(toastTimer);
    toastTimer = window.setTimeout(() => toast.classList.remove("is-shown"), 2500);
  },
};

/** @param {number} row Opens what the span is folded into, and shows spans of frameworks if it is one. */
function reveal(row) {
  const { tree, open } = store.get();
  if (tree && tree.parentOf(row) > -2) store.set({ open: tree.reveal(row, open) });
}

function routeChanged() {
  store.set({ route: parse(new URL(location.href), isFile) });
  session.routeChanged();
}

/** @type {View | null} */
let view = null;
let viewPage = "";
let revealed = "";

store.subscribe((state, changed) => {
  const page = state.route.page + state.route.traceId;
  if (page !== viewPage) {
    view?.destroy?.();
    view = state.route.page === "trace" ? createRun(app) : createRuns(app);
    fill(stage, view.element);
    if (viewPage) focusContent();
    viewPage = page;
    changed = new Set([...changed, "route", "runs", "trace", "tree", "open", "span", "messages"]);
  }
  revealFromUrl(state);
  view?.update(state, changed);
  if (changed.has("error")) {
    fill(errorBar, state.error);
    errorBar.hidden = !state.error;
  }
  if (changed.has("live")) {
    liveMark.className = `live is-${state.live}`;
    fill(liveMark, { off: "", connecting: "connecting …", live: "live", ended: "" }[state.live]);
  }
  if (changed.has("help") && state.help !== help.open) {
    if (state.help) help.showModal();
    else help.close();
  }
  const { trace } = state;
  document.title = trace ? `${trace.record.name.replace(/^invoke_workflow /, "")} · nodespan` : "nodespan";
});

/** Moves the focus to the content of another page, for screen readers. */
function focusContent() {
  const content = document.getElementById("main");
  content?.setAttribute("tabindex", "-1");
  content?.focus({ preventScroll: true });
}

/** A span that the URL names is shown, however deep it is folded. @param {AppState} state */
function revealFromUrl(state) {
  const id = value(state.route, "span");
  if (!state.tree || !id || revealed === state.route.traceId + id) return;
  const row = state.tree.trace.rowOf(id);
  if (row < 0) return;
  const isFirst = revealed === "" || !revealed.startsWith(state.route.traceId);
  revealed = state.route.traceId + id;
  if (isFirst) reveal(row);
}

/** @param {number} by Next or previous execution of the same node, or span of the same name. */
function toSame(by) {
  const { tree } = store.get();
  const row = app.cursor();
  if (!tree || row < 0 || row >= tree.n) return;
  const { trace } = tree;
  const isSame = (/** @type {number} */ other) =>
    trace.name[other] === trace.name[row] && trace.operation[other] === trace.operation[row] && tree.parentOf(other) > -2;
  for (let other = row + by; other >= 0 && other < tree.n; other += by) {
    if (isSame(other)) {
      app.select(other);
      return;
    }
  }
}

function toError() {
  const { tree } = store.get();
  if (!tree) return;
  const from = app.cursor();
  const start = from >= tree.n ? tree.startOf(from) : -1;
  for (let i = 1; i <= tree.n; i++) {
    const row = (Math.max(from >= tree.n ? -1 : from, -1) + i) % tree.n;
    // The origin of the error: a span that contains another one with an error has only passed it on.
    if (tree.trace.status[row] === 2 && tree.errors?.[row] === 1 && tree.parentOf(row) > -2 && tree.startOf(row) >= start) {
      app.select(row);
      return;
    }
  }
  app.notify("This run has no error.");
}

listen((name) => {
  if (help.open) return false;
  if (name === "?") {
    store.set({ help: true });
    return true;
  }
  if (view?.key?.(name)) return true;
  if (store.get().route.page !== "trace") return false;
  /** @type {Record<string, () => void>} */
  const keys = {
    e: toError, "[": () => toSame(-1), "]": () => toSame(1), u: () => app.go(runsRoute()),
    Escape: () => app.cursor() >= 0 && app.select(-1),
  };
  return press(keys, name);
});

// Links of the page change the route without a new document; with a modifier they open a tab as links do.
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || link.target) return;
  const address = new URL(link.href);
  if (isFile || address.origin !== location.origin) return;
  event.preventDefault();
  history.pushState(null, "", address);
  routeChanged();
});
window.setInterval(() => {
  const { runs, trace, tick } = store.get();
  if (!document.hidden && (trace ? trace.isLive : runs)) store.set({ tick: tick + 1 });
}, 1000);
window.addEventListener("popstate", routeChanged);
window.addEventListener("hashchange", () => {
  if (isFile) routeChanged();
  else if (location.hash.startsWith("#token=")) void startSession().then(() => location.reload());
});

document.body.append(
  button("Skip to the content", focusContent, { class: "skip" }),
  el("header", { class: "bar" }, el("a", { class: "brand", href: app.href(runsRoute()) }, "nodespan"),
    liveMark, el("span", { class: "gap" }), button("?", () => store.set({ help: true }), { class: "round", "aria-label": "Keys", title: "Keys (?)" })),
  api.notice ? el("p", { class: "notice", role: "note" }, api.notice) : "", errorBar, stage, toast, help);

try {
  if (!isFile) await startSession();
  session.routeChanged();
} catch (error) {
  store.set({ error: error instanceof Error ? error.message : String(error) });
}
store.set({ route: store.get().route });
