// The kind of a span, which has a colour and a name. Pure.

export const KINDS = ["other", "workflow", "node", "model", "tool", "retrieval", "queue", "load", "prefill", "decode"];
export const WORKFLOW = 1, NODE = 2, MODEL = 3, TOOL = 4, RETRIEVAL = 5, QUEUE = 6, LOAD = 7, PREFILL = 8, DECODE = 9;

/** @type {Record<string, number>} */
const BY_OPERATION = {
  invoke_workflow: WORKFLOW, invoke_node: NODE, chat: MODEL, text_completion: MODEL, generate_content: MODEL, embeddings: MODEL,
  execute_tool: TOOL, retrieval: RETRIEVAL, invoke_agent: WORKFLOW,
};
/** @type {Record<string, number>} */
const BY_NAME = {
  "pipeline.queue": QUEUE, "server.queue": QUEUE, "pipeline.load": LOAD, "server.load": LOAD,
  "llama_cpp.prefill": PREFILL, "llama_cpp.decode": DECODE,
};

/** @param {Trace} trace @returns {Uint8Array} The kind of each row. */
export function kindsOf(trace) {
  const names = Uint8Array.from(trace.strings, (text) => BY_NAME[text] ?? 0);
  const operations = Uint8Array.from(trace.strings, (text) => BY_OPERATION[text] ?? 0);
  const kinds = new Uint8Array(trace.n);
  for (let row = 0; row < trace.n; row++) {
    kinds[row] = names[/** @type {number} */ (trace.name[row])] || operations[/** @type {number} */ (trace.operation[row])] || 0;
  }
  return kinds;
}

/** @param {number} kind @returns {boolean} A part of a model call: drawn inside its bar. */
export function isPhase(kind) {
  return kind >= QUEUE;
}
