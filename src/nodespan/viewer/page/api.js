// The documents of the server, or of the mailed file that holds them. The only module that makes requests.

import { filterOf } from "router";

/** An answer that is no document; its message is for the reader. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** @typedef {ReturnType<typeof serverApi>} Api */

/** @returns {EmbeddedDocument | null} The data of a mailed file. */
export function embedded() {
  const element = document.getElementById("data");
  return element ? JSON.parse(element.textContent ?? "null") : null;
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
    } catch { /* the answer is no JSON document */ }
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
  /** @template T @param {T | undefined | null} found @param {string} what @returns {Promise<T>} */
  const given = (found, what) => (found ? Promise.resolve(found) : Promise.reject(new ApiError(`This file does not contain ${what}.`, 404)));
  return {
    isFile: true,
    notice: data.redaction,
    hasAttributes: data.has_attributes,
    runs: () => Promise.resolve({ traces: data.runs, next: null, cursor: "", now_ns: 0 }),
    trace: (id) => given(data.traces[id], `the run ${id}`),
    span: (id, spanId) => given(data.spans?.[id]?.[spanId], "the attributes of this span"),
    messages: (id) => Promise.resolve(data.messages?.[id] ?? { items: [], is_captured: false }),
    events: () => null,
  };
}
