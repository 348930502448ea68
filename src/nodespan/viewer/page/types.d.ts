// Types of the viewer's documents (docs/viewer-data.md) and of the page's state; for tsc only, the browser never loads it.

type Phase = "queued" | "loading" | "prefilling" | "decoding" | "retrying" | "tool";
type StateName = "ended" | "running" | "silent" | "lost";

interface PhaseRecord {
  name: Phase; since_ns: number; at_ns: number;
  done: number | null; total: number | null; position: number | null; text: string;
}
interface ProcessRecord { id: string; pid: number; start_ns: number; heartbeat_ns: number; silent_s: number | null }
interface EdgeRecord { target: string; kind: string; is_declared: boolean; count?: number }
interface WriteRecord { channel: string; type: string; size_bytes: number | null; hmac: string | null; value: string | null }
interface PrefixRecord { shared: number; repeated: number; previous_node: string | null; cost_s: number | null }
interface EventRecord { name: string; time_ns: number; attributes: Record<string, unknown> }
interface LinkRecord { trace_id: string; span_id: string; attributes: Record<string, unknown> }

interface SpanRecord {
  trace_id: string; span_id: string; parent_span_id: string; name: string; kind: string;
  start_ns: number; end_ns: number | null; duration_s: number; state: StateName;
  status_code: string; status_message: string;
  attributes: Record<string, unknown>; resource: Record<string, unknown>; scope: string;
  events: EventRecord[]; links: LinkRecord[];
  phase: PhaseRecord | null; process: ProcessRecord | null;
  edges: EdgeRecord[]; writes: WriteRecord[];
  node_metadata?: Record<string, unknown> | null; jaeger_url?: string | null;
}

interface TraceRecord {
  trace_id: string; name: string; service: string; start_ns: number; end_ns: number | null; duration_s: number;
  state: StateName; spans: number; errors: number; running: number; lost: number; phase: PhaseRecord | null;
  labels: Record<string, string[]>;
  tokens_in?: number | null; tokens_out?: number | null; decode_s?: number | null;
  is_interrupted?: boolean; resumes?: string | null;
}
interface StoreStatus { path: string; spans: number; indexed_spans: number; sees_running: boolean; untracked: number; is_copy: boolean }
interface RunsDocument { traces: TraceRecord[]; next: string | null; cursor: string; status?: StoreStatus; now_ns: number }

interface Topology {
  name: string; nodes: { id: string; graph: string | null; is_deferred?: boolean }[];
  edges: [string, string][]; joins: [string[], string][];
  branches: { source: string; name: string; ends: string[] | null }[];
  subgraphs?: Record<string, Topology>; is_truncated?: boolean;
}
interface LayoutNode { id: string; x: number; y: number; w: number; h: number }
interface LayoutEdge { source: string; target: string; kind: string; points: [number, number][] }
interface Layout { width: number; height: number; nodes: LayoutNode[]; edges: LayoutEdge[] }
interface GraphDocument { hash: string; topology: Topology; layout: Layout | null }
interface RunEntry { row: number; graph: string | null; conversation?: string | null; link?: { trace_id: string; span_id: string } | null }

interface SpanColumns {
  n: number; id: string[]; parent?: number[]; parent_id?: string[];
  name: number[]; service: number[]; scope: number[]; kind: number[]; start: number[]; duration: number[];
  state: number[]; status: number[]; operation: number[]; node: number[]; step: number[];
  tokens_in: number[]; tokens_out: number[]; cached: number[]; flags: number[];
}
interface TraceDocument {
  trace: TraceRecord; cursor: string; t0_ns: string; now_us: number; strings: string[]; spans: SpanColumns;
  phases: Record<string, PhaseRecord>; processes: Record<string, ProcessRecord>;
  edges: Record<string, EdgeRecord[]>; writes: Record<string, WriteRecord[]>;
  prefixes?: Record<string, PrefixRecord>;
  graphs: Record<string, GraphDocument>; runs: RunEntry[];
  conversations: Record<string, TraceRecord[]>;
}
interface TraceDelta {
  trace: TraceRecord; strings: string[]; spans: SpanColumns;
  phases: Record<string, PhaseRecord>; processes: Record<string, ProcessRecord>;
  edges: Record<string, EdgeRecord[]>; writes: Record<string, WriteRecord[]>;
  prefixes?: Record<string, PrefixRecord>;
  open: string[] | null; is_reset: boolean; now_us?: number;
  graphs?: Record<string, GraphDocument>; runs?: RunEntry[]; conversations?: Record<string, TraceRecord[]>;
}
interface MessageItem { row: number; kind: string; text: string; name: string; time_us: number }
interface MessagesDocument { items: MessageItem[]; is_captured: boolean }

interface EmbeddedDocument { runs: TraceRecord[]; traces: Record<string, TraceDocument>; has_attributes: boolean; redaction: string }
interface EmbeddedAttributes {
  spans: Record<string, Record<string, SpanRecord>> | null;
  messages: Record<string, MessagesDocument> | null;
}

/** What the URL holds: the page and its query. Values that are absent from the URL are absent here. */
interface Route { page: "runs" | "trace"; traceId: string; query: Record<string, string[]> }

/** The part of a trace that views read: `Trace` of the module "trace". */
type Trace = import("./trace.js").Trace;
type Tree = import("./tree.js").Tree;

interface AppState {
  route: Route;
  /** null until the first document has arrived. */
  runs: RunsDocument | null;
  trace: Trace | null;
  tree: Tree | null;
  span: SpanRecord | null;
  messages: MessagesDocument | null;
  /** Rows and groups that the reader opened or closed: key → is open. */
  open: Map<string, boolean>;
  error: string;
  live: "off" | "connecting" | "live" | "ended";
  help: boolean;
  /** Counts the seconds while something runs. */
  tick: number;
  /** Offset of the server's clock to this machine's, in milliseconds. */
  clockMs: number;
}
type Store = import("./state.js").Store;

interface View { element: HTMLElement; update(state: AppState, changed: Set<string>): void; destroy?(): void; key?(name: string): boolean }

/** What a view may do besides drawing. */
interface App {
  store: Store;
  api: import("./api.js").Api;
  href(route: Route): string;
  go(route: Route, replace?: boolean): void;
  /** Change the query of the current page. */
  patch(query: Record<string, string | string[] | null>, replace?: boolean): void;
  /** Select a span of the run, by row; -1 selects none. */
  select(row: number): void;
  /** Put the cursor on a span or group. */
  moveTo(node: number): void;
  /** The node with the cursor, or -1. */
  cursor(): number;
  toggle(node: number, open?: boolean): void;
  /** Open everything, or what is open at first. */
  openAll(): void;
  notify(text: string): void;
}
