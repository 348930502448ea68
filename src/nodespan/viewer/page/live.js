// Changes from the server, as they happen. The browser resumes a cut stream with the last received id; a tab that
// was suspended catches up when it is resumed.

export const AGAIN_MS = 2000;

/**
 * @param {(cursor: string) => string | null} address Of the stream, from a cursor on.
 * @param {(data: any, cursor: string) => void} changed
 * @param {(state: "connecting" | "live" | "ended") => void} report
 * @param {() => void} reread Called some time after the server has refused the stream.
 */
export function follow(address, changed, report, reread) {
  /** @type {EventSource | null} */
  let source = null;
  let cursor = "";
  let timer = 0;

  function open() {
    close();
    const url = address(cursor);
    if (!url || !cursor) return;
    report("connecting");
    source = new EventSource(url);
    source.onopen = () => report("live");
    source.addEventListener("changes", (event) => {
      cursor = event.lastEventId || cursor;
      changed(JSON.parse(event.data), cursor);
    });
    source.onerror = () => {
      // EventSource tries again by itself after a cut, but not after another answer than a stream: the server may have
      // been restarted with another token.
      report("connecting");
      if (source?.readyState === EventSource.CLOSED) {
        clearTimeout(timer);
        timer = window.setTimeout(reread, AGAIN_MS);
      }
    };
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  // A browser may freeze a hidden tab, with or without closing its connections.
  const woke = () => {
    if (!document.hidden && cursor && (!source || source.readyState === EventSource.CLOSED)) open();
  };
  document.addEventListener("visibilitychange", woke);
  document.addEventListener("resume", woke);
  window.addEventListener("online", woke);

  return {
    /** @param {string} from */
    start(from) {
      cursor = from;
      open();
    },
    stop() {
      close();
      document.removeEventListener("visibilitychange", woke);
      document.removeEventListener("resume", woke);
      window.removeEventListener("online", woke);
    },
  };
}

/**
 * Put changed records into a list, newest first.
 * @param {TraceRecord[]} known @param {TraceRecord[]} changed @param {boolean} takesNew Records that are not in the list are added.
 * @param {number} limit @returns {TraceRecord[]}
 */
export function upserted(known, changed, takesNew, limit) {
  const records = new Map(known.map((record) => [record.trace_id, record]));
  for (const record of changed) if (takesNew || records.has(record.trace_id)) records.set(record.trace_id, record);
  return [...records.values()].sort((a, b) => b.start_ns - a.start_ns).slice(0, Math.max(limit, known.length));
}
