// A trace in columns: one typed array per field, one row per span. Made from the server's document, extended by its
// changes. Rows keep their numbers while the page is open; the tree determines order and nesting.

export const RUNNING = 1, SILENT = 2, LOST = 3;
export const FLAG = { interrupted: 1, cancelled: 2, retried: 4, resumed: 8, events: 16, links: 32, noise: 64, undeclared: 128, cached: 256 };

const NUMBERS = /** @type {const} */ (["name", "service", "scope", "kind", "start", "duration", "state", "status", "operation", "node", "step", "tokens_in", "tokens_out", "cached", "flags"]);

export class Trace {
  /** @param {TraceDocument} document */
  constructor(document) {
    const spans = document.spans;
    this.record = document.trace;
    this.cursor = document.cursor;
    this.t0Ns = document.t0_ns;
    this.t0Ms = Number(BigInt(document.t0_ns) / 1000n) / 1000;
    this.nowUs = document.now_us;
    this.readAtMs = performance.now();
    this.strings = document.strings;
    this.n = spans.n;
    this.capacity = spans.n;
    this.id = spans.id;
    this.parent = Int32Array.from(spans.parent ?? []);
    this.name = Int32Array.from(spans.name);
    this.service = Int32Array.from(spans.service);
    this.scope = Int32Array.from(spans.scope);
    this.kind = Uint8Array.from(spans.kind);
    this.start = Float64Array.from(spans.start);
    this.duration = Float64Array.from(spans.duration);
    this.state = Uint8Array.from(spans.state);
    this.status = Uint8Array.from(spans.status);
    this.operation = Int32Array.from(spans.operation);
    this.node = Int32Array.from(spans.node);
    this.step = Int32Array.from(spans.step);
    this.tokens_in = Int32Array.from(spans.tokens_in);
    this.tokens_out = Int32Array.from(spans.tokens_out);
    this.cached = Int32Array.from(spans.cached);
    this.flags = Uint16Array.from(spans.flags);
    /** @type {Map<number, PhaseRecord>} */
    this.phases = byRow(document.phases);
    /** @type {Map<number, ProcessRecord>} */
    this.processes = byRow(document.processes);
    /** @type {Map<number, EdgeRecord[]>} */
    this.edges = byRow(document.edges);
    /** @type {Map<number, WriteRecord[]>} */
    this.writes = byRow(document.writes);
    /** @type {Map<number, PrefixRecord>} */
    this.prefixes = byRow(document.prefixes);
    this.graphs = document.graphs;
    this.runs = document.runs;
    this.conversations = document.conversations ?? {};
    this.version = 0;
    /** @type {Map<string, number> | null} */
    this.rows = null;
    /** @type {Map<string, number[]>} Rows whose parent has not arrived, by the parent's id. */
    this.orphans = new Map();
    /** @type {Map<string, number> | null} */
    this.stringIndex = null;
  }

  /** @param {string} id @returns {number} The row of a span, or -1. */
  rowOf(id) {
    if (!id) return -1;
    if (!this.rows) {
      this.rows = new Map();
      for (let row = 0; row < this.n; row++) this.rows.set(/** @type {string} */ (this.id[row]), row);
    }
    return this.rows.get(id) ?? -1;
  }

  /** @param {number} row */
  idOf(row) {
    return this.id[row] ?? "";
  }

  /** @param {"name" | "service" | "scope" | "operation" | "node"} column @param {number} row @returns {string} */
  text(column, row) {
    return this.strings[/** @type {number} */ (this[column][row])] ?? "";
  }

  /** @param {number} row @returns {boolean} */
  isOpen(row) {
    const state = this.state[row];
    return state === RUNNING || state === SILENT;
  }

  /** @returns {number} Now, in µs from the trace's start, by the server's clock. */
  now() {
    return this.nowUs + (performance.now() - this.readAtMs) * 1000;
  }

  /** @param {number} row @param {number} now @returns {number} End of a span in µs; of an open one, now. */
  end(row, now) {
    const start = /** @type {number} */ (this.start[row]);
    return this.isOpen(row) ? Math.max(now, start) : start + /** @type {number} */ (this.duration[row]);
  }

  /** @returns {boolean} Something in it is not over. */
  get isLive() {
    return this.record.state === "running" || this.record.state === "silent";
  }

  /**
   * Apply the changes.
   * @param {TraceDelta} delta @param {string} cursor
   */
  merge(delta, cursor) {
    const columns = delta.spans;
    const strings = delta.strings.map((text) => this.intern(text));
    /** @type {number[]} */
    const rows = [];
    for (let i = 0; i < columns.n; i++) rows.push(this.place(columns, i, strings));
    for (let i = 0; i < columns.n; i++) this.adopt(/** @type {number} */ (rows[i]), columns.parent_id?.[i] ?? "");
    take(this.phases, delta.phases, rows, columns.n);
    take(this.processes, delta.processes, rows, columns.n);
    take(this.edges, delta.edges, rows, columns.n);
    take(this.writes, delta.writes, rows, columns.n);
    take(this.prefixes, delta.prefixes, rows, columns.n);
    if (delta.open) this.close(new Set(delta.open));
    if (delta.graphs) Object.assign(this.graphs, delta.graphs);
    for (const run of delta.runs ?? []) this.addRun({ ...run, row: rows[run.row] ?? -1 });
    if (delta.conversations) this.conversations = delta.conversations;
    if (delta.now_us !== undefined) {
      this.nowUs = delta.now_us;
      this.readAtMs = performance.now();
    }
    this.record = delta.trace;
    this.cursor = cursor;
    this.version++;
  }

  /** @param {RunEntry} run */
  addRun(run) {
    if (run.row < 0) return;
    const at = this.runs.findIndex((known) => known.row === run.row);
    if (at < 0) this.runs.push(run);
    else this.runs[at] = run;
  }

  /** @param {string} text @returns {number} */
  intern(text) {
    if (!this.stringIndex) this.stringIndex = new Map(this.strings.map((known, i) => [known, i]));
    let index = this.stringIndex.get(text);
    if (index === undefined) {
      index = this.strings.push(text) - 1;
      this.stringIndex.set(text, index);
    }
    return index;
  }

  /** @param {SpanColumns} columns @param {number} i @param {number[]} strings @returns {number} The span's row. */
  place(columns, i, strings) {
    const id = /** @type {string} */ (columns.id[i]);
    let row = this.rowOf(id);
    if (row < 0) {
      row = this.n++;
      if (row >= this.capacity) this.grow();
      this.id[row] = id;
      this.rows?.set(id, row);
      this.parent[row] = -1;
    }
    for (const name of NUMBERS) {
      const given = /** @type {number} */ (columns[name][i]);
      const isText = name === "name" || name === "service" || name === "scope" || name === "operation" || name === "node";
      this[name][row] = isText ? strings[given] ?? 0 : given;
    }
    return row;
  }

  /** @param {number} row @param {string} parentId */
  adopt(row, parentId) {
    this.parent[row] = this.rowOf(parentId);
    if (parentId && this.parent[row] === -1) {
      const waiting = this.orphans.get(parentId) ?? [];
      waiting.push(row);
      this.orphans.set(parentId, waiting);
    }
    const id = this.idOf(row);
    for (const child of this.orphans.get(id) ?? []) this.parent[child] = row;
    this.orphans.delete(id);
  }

  /** @param {Set<string>} open Ids of all spans that are still open; others that seem to be have left no end. */
  close(open) {
    for (let row = 0; row < this.n; row++) {
      if (this.isOpen(row) && !open.has(this.idOf(row))) {
        this.duration[row] = Math.max(0, this.now() - /** @type {number} */ (this.start[row]));
        this.state[row] = 0;
        this.phases.delete(row);
        this.processes.delete(row);
      }
    }
  }

  grow() {
    this.capacity = Math.max(64, this.capacity * 2);
    for (const name of /** @type {const} */ (["parent", ...NUMBERS])) {
      const column = this[name];
      const Column = /** @type {any} */ (column.constructor);
      const larger = new Column(this.capacity);
      larger.set(column);
      /** @type {any} */ (this)[name] = larger;
    }
  }
}

/** @param {Trace} trace @param {number} row @returns {string} The node in which a span is, or an empty text. */
export function nodeAround(trace, row) {
  for (let at = row, steps = 0; at >= 0 && steps < trace.n; at = trace.parent[at] ?? -1, steps++) {
    const node = trace.text("node", at);
    if (node) return node;
  }
  return "";
}

/** @template T @param {Record<string, T> | undefined} record @returns {Map<number, T>} */
function byRow(record) {
  return new Map(Object.entries(record ?? {}).map(([row, value]) => [Number(row), value]));
}

/**
 * Replace the entries of the rows of a delta; the entry of a row without one is removed.
 * @template T @param {Map<number, T>} known @param {Record<string, T> | undefined} delta @param {number[]} rows @param {number} n
 */
function take(known, delta, rows, n) {
  for (let i = 0; i < n; i++) {
    const row = /** @type {number} */ (rows[i]);
    const given = delta?.[i];
    if (given === undefined) known.delete(row);
    else known.set(row, given);
  }
}
