// Reads data from the server into the store: the run or list of the route, the selected
// span, the messages, and the changes of all of these.

import { ApiError } from "api";
import { oncePerFrame } from "dom";
import { AGAIN_MS, follow, upserted } from "live";
import { filterOf, value } from "router";
import { viewOf } from "run";
import { Trace } from "trace";
import { Tree } from "tree";

const LIST_LIMIT = 50;
const REBUILD_MIN_MS = 50;

/** @param {Store} store @param {import("./api.js").Api} api */
export function createSession(store, api) {
  /** @type {ReturnType<typeof follow> | null} */
  let stream = null;
  let request = new AbortController();
  let listed = "";
  let spanKey = "";
  let messagesKey = "";
  let rebuildTimer = 0;
  let againTimer = 0;
  let rebuildMs = 0;

  /** @param {unknown} error @param {() => void} [again] What failed; done again after a while if the server may be back then. */
  function fail(error, again) {
    if (error instanceof DOMException && error.name === "AbortError") return;
    store.set({ error: error instanceof ApiError ? error.message : `The page has a defect: ${String(error)}` });
    if (!(error instanceof ApiError)) console.error(error);
    else if (again && (error.status === 0 || error.status === 503)) againTimer = window.setTimeout(again, AGAIN_MS);
  }

  function stop() {
    request.abort();
    request = new AbortController();
    stream?.stop();
    stream = null;
    clearTimeout(rebuildTimer);
    clearTimeout(againTimer);
    rebuildTimer = 0;
    store.set({ live: "off" });
  }

  async function readRuns() {
    stop();
    const { route } = store.get();
    try {
      const runs = await api.runs(route, request.signal);
      store.set({ runs, clockMs: runs.now_ns / 1e6 - Date.now(), error: "" });
      const takesNew = value(route, "before") === "";
      stream = follow((cursor) => {
        const parameters = filterOf(route);
        parameters.set("cursor", cursor);
        return api.events(parameters);
      }, (data, cursor) => runsChanged(data, cursor, takesNew), (live) => store.set({ live }), readRuns);
      stream.start(runs.cursor);
      readOlder(runs);
    } catch (error) {
      fail(error, readRuns);
    }
  }

  /** While the index is filled, read the list again: older runs are in no change. @param {RunsDocument} runs */
  function readOlder({ status }) {
    if (!status || status.indexed_spans >= status.spans) return;
    againTimer = window.setTimeout(async () => {
      try {
        const runs = await api.runs(store.get().route, request.signal);
        store.set({ runs });
        readOlder(runs);
      } catch (error) {
        fail(error, readRuns);
      }
    }, AGAIN_MS);
  }

  /** @param {{ traces: TraceRecord[], gone?: string[], is_reset: boolean, now_ns: number }} data @param {string} cursor @param {boolean} takesNew */
  function runsChanged(data, cursor, takesNew) {
    const { runs } = store.get();
    if (!runs || data.is_reset) {
      void readRuns();
      return;
    }
    const kept = data.gone?.length ? runs.traces.filter((trace) => !data.gone?.includes(trace.trace_id)) : runs.traces;
    store.set({ runs: { ...runs, traces: upserted(kept, data.traces, takesNew, LIST_LIMIT), cursor, now_ns: data.now_ns } });
  }

  async function readTrace() {
    stop();
    const { traceId } = store.get().route;
    try {
      const trace = new Trace(await api.trace(traceId, request.signal));
      store.set({ error: "" });
      adopt(trace);
      stream = follow((cursor) => api.events(new URLSearchParams({ cursor, trace: trace.record.trace_id, t0: trace.t0Ns })), traceChanged, (live) => store.set({ live }), readTrace);
      stream.start(trace.cursor);
    } catch (error) {
      fail(error, readTrace);
    }
  }

  /** @param {TraceDelta} data @param {string} cursor */
  function traceChanged(data, cursor) {
    const { trace } = store.get();
    if (!trace || data.is_reset) {
      void readTrace();
      return;
    }
    trace.merge(data, cursor);
    // Building the tree of a large trace takes longer than the interval of changes: it is built less often.
    if (!rebuildTimer) rebuildTimer = window.setTimeout(() => adopt(trace), Math.min(2000, Math.max(0, rebuildMs * 3 - REBUILD_MIN_MS)));
  }

  /** @param {Trace} trace */
  function adopt(trace) {
    clearTimeout(rebuildTimer);
    rebuildTimer = 0;
    const began = performance.now();
    const { route } = store.get();
    const tree = new Tree(trace, value(route, "noise") === "1");
    rebuildMs = performance.now() - began;
    performance.measure("nodespan:tree", { start: began, end: performance.now() });
    store.set({ trace, tree });
    refresh();
  }

  async function readSpan() {
    const { route, trace } = store.get();
    const id = value(route, "span");
    if (!trace || !id) {
      spanKey = "";
      if (store.get().span) store.set({ span: null });
      return;
    }
    const row = trace.rowOf(id);
    const key = `${route.traceId} ${id} ${row < 0 ? "" : trace.state[row]} ${trace.isOpen(row) ? trace.version : ""}`;
    if (key === spanKey) return;
    spanKey = key;
    if (store.get().span?.span_id !== id) store.set({ span: null });
    try {
      const span = await api.span(trace.record.trace_id, id, request.signal);
      if (spanKey === key) store.set({ span });
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) fail(error);
    }
  }

  async function readMessages() {
    const { route, trace } = store.get();
    if (!trace || viewOf(route) !== "conversation") return;
    const key = `${route.traceId} ${trace.version}`;
    if (key === messagesKey) return;
    messagesKey = key;
    try {
      const messages = await api.messages(trace.record.trace_id, request.signal);
      if (messagesKey === key) store.set({ messages });
    } catch (error) {
      fail(error);
    }
  }

  const refresh = oncePerFrame(() => {
    void readSpan();
    void readMessages();
  });

  return {
    /** Read the data of the store's route. */
    routeChanged() {
      const { route, trace, tree } = store.get();
      if (route.page === "runs") {
        const key = `runs ${filterOf(route)} ${value(route, "before")}`;
        if (key !== listed) {
          listed = key;
          store.set({ error: "", runs: null, trace: null, tree: null, span: null, messages: null });
          void readRuns();
        }
        return;
      }
      const key = `trace ${route.traceId}`;
      if (key !== listed) {
        listed = key;
        store.set({ error: "", trace: null, tree: null, span: null, messages: null, open: new Map() });
        void readTrace();
      } else if (trace && tree && tree.withNoise !== (value(route, "noise") === "1")) adopt(trace);
      else refresh();
    },
  };
}
