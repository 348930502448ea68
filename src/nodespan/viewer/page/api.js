// The documents of the server, or of the mailed file that holds them. The only module that makes requests.

import { filterOf } from "router";

/** An answer that is not a document; its message is shown to the user. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** @typedef {ReturnType<typeof serverApi>} Api */

/**
 * @param {string} id @returns {Promise<any>} The document that an element of a mailed file holds; null if there is none.
 */
async function held(id) {
  const element = document.getElementById(id);
  const text = element?.textContent ?? "";
  if (!element || element.dataset["encoding"] !== "gzip") return JSON.parse(text || "null");
  const packed = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse((await new Response(unpacked).text()) || "null");
}

/** @returns {Promise<EmbeddedDocument | null>} The data of a mailed file. */
export async function embedded() {
  return held("data");
}

/**
 * Exchange the token in the URL's fragment for the session's cookie, and remove it from the URL.
 * @returns {Promise<void>}
 */
export async function startSession() {
  const match = /^#token=([\w.~-]+)$/.exec(location.hash);
  if (!match) return;
  history.replaceState(null, "", location.pathname + location.search);
  const answer = await fetch("/session", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token: match[1] }),
  });
  if (!answer.ok) throw new ApiError("The server did not accept the token of this address. Use the line that `nodespan ui` printed last.", answer.status);
}

export function serverApi() {
  /** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
  async function document_(path, signal) {
    let answer;
    try {
      answer = await fetch(path, { headers: { accept: "application/json" }, signal: signal ?? null });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new ApiError("The server of this page does not answer. Is `nodespan ui` still running?", 0);
    }
    if (answer.ok) return answer.json();
    if (answer.status === 401) throw new ApiError("This browser has no session. Open the address that `nodespan ui` printed; it contains a token.", 401);
    let text = `${answer.status} ${answer.statusText}`;
    try {
      text = (await answer.json()).error ?? text;
    } catch { /* the answer is not JSON */ }
    throw new ApiError(text, answer.status);
  }

  return {
    isFile: false,
    notice: "",
    hasAttributes: true,
    /** @param {Route} route @param {AbortSignal} [signal] @returns {Promise<RunsDocument>} */
    runs(route, signal) {
      const parameters = filterOf(route);
      const before = route.query["before"]?.[0];
      if (before) parameters.set("before", before);
      parameters.set("limit", "50");
      return document_(`/runs.json?${parameters}`, signal);
    },
    /** @param {string} id @param {AbortSignal} [signal] @returns {Promise<TraceDocument>} */
    trace: (id, signal) => document_(`/trace/${id}.json`, signal),
    /** @param {string} id @param {string} spanId @param {AbortSignal} [signal] @returns {Promise<SpanRecord>} */
    span: (id, spanId, signal) => document_(`/trace/${id}/span/${spanId}.json`, signal),
    /** @param {string} id @param {AbortSignal} [signal] @returns {Promise<MessagesDocument>} */
    messages: (id, signal) => document_(`/trace/${id}/messages.json`, signal),
    /** @param {URLSearchParams} parameters @returns {string | null} Address of the changes. */
    events: (parameters) => /** @type {string | null} */ (`/events?${parameters}`),
  };
}

/** @param {EmbeddedDocument} data @returns {Api} */
export function fileApi(data) {
  /** @type {Promise<EmbeddedAttributes | null> | null} Unpacked when a span is first looked at. */
  let attributes = null;
  const read = () => (attributes ??= held("attributes"));
  /** @template T @param {T | undefined | null} found @param {string} what @returns {T} */
  const given = (found, what) => {
    if (!found) throw new ApiError(`This file does not contain ${what}.`, 404);
    return found;
  };
  return {
    isFile: true,
    notice: data.redaction,
    hasAttributes: data.has_attributes,
    runs: (route) => Promise.resolve({ traces: filtered(data.runs, route), next: null, cursor: "", now_ns: 0 }),
    trace: async (id) => given(data.traces[id] ?? Object.values(data.traces).find((each) => each.trace.trace_id.startsWith(id)), `the run ${id}`),
    span: async (id, spanId) => given((await read())?.spans?.[id]?.[spanId], "the attributes of this span"),
    messages: async (id) => (await read())?.messages?.[id] ?? { items: [], is_captured: false },
    events: () => null,
  };
}

/** @param {TraceRecord[]} runs @param {Route} route @returns {TraceRecord[]} Those that the filter of the route matches. */
export function filtered(runs, route) {
  /** @type {Record<string, string>} */
  const labels = { meta: "metadata" };
  const time = (/** @type {string} */ text) => (/^\d+$/.test(text) ? Number(text) : Date.parse(text) * 1e6);
  return runs.filter((run) => [...filterOf(route)].every(([name, text]) => {
    if (name === "error") return run.errors > 0;
    if (name === "running") return run.state !== "ended";
    if (name === "min") return run.duration_s >= Number(text);
    if (name === "since") return run.start_ns >= time(text);
    if (name === "until") return run.start_ns < time(text);
    if (name === "id") return run.trace_id.startsWith(text);
    return run.labels[labels[name] ?? name]?.includes(text) ?? false;
  }));
}
