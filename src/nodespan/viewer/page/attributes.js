// Attributes of a span, grouped by what they are about. Pure.

/** @type {[string, RegExp][]} In order; the first that matches has the attribute. */
const GROUPS = [
  ["Error", /^(error\.|exception\.)/],
  ["Content", /^gen_ai\.(system_instructions|(input|output)\.messages|tool\.call\.(arguments|result)|tool\.definitions|retrieval\.)/],
  ["Tokens", /^gen_ai\.usage\.|^nodespan\.(input_tokens|cached_input_tokens|output_tokens|tokens_per_s|tokens_estimated|evaluated_tokens|chunks)$/],
  ["Prefix", /^nodespan\.prefix/],
  ["Time", /^nodespan\..*_s$|^gen_ai\.response\.time_to_first_chunk$|^nodespan\.execution_time$/],
  ["Model", /^gen_ai\.(request|response|provider|operation|output|embeddings|token)|^nodespan\.(model|pipeline_type|profile_type|cache_status|finish_reason|streaming|response_cached|server|context)/],
  ["Tool", /^gen_ai\.(tool|data_source)\./],
  ["Graph", /^langgraph\.|^gen_ai\.(node|workflow|agent)\.|^nodespan\.(node_|status|attempt|priority|tag|edge|write)/],
  ["People and conversations", /^user\.|^gen_ai\.conversation|^nodespan\.(user_id|conversation_id|metadata)/],
  ["Network", /^(server|client|http|url|network|peer)\./],
  ["Code", /^(code|thread|process)\./],
];

/**
 * @param {Record<string, unknown>} attributes
 * @returns {[string, [string, unknown][]][]} Groups with their attributes, sorted by name.
 */
export function byMeaning(attributes) {
  /** @type {Map<string, [string, unknown][]>} */
  const found = new Map([...GROUPS.map(([title]) => title), "Other"].map((title) => [title, []]));
  for (const entry of Object.entries(attributes).sort(([a], [b]) => (a < b ? -1 : 1))) {
    const title = GROUPS.find(([, pattern]) => pattern.test(entry[0]))?.[0] ?? "Other";
    found.get(title)?.push(entry);
  }
  return [...found].filter(([, entries]) => entries.length > 0);
}

/** @param {unknown} value @returns {string} As text; JSON in a text is indented. */
export function asText(value) {
  if (typeof value === "string") return indented(value);
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return value.join("\n");
  return typeof value === "object" && value !== null ? JSON.stringify(value, null, 1) : String(value);
}

/** @param {string} text @returns {string} */
function indented(text) {
  if (!/^\s*[[{]/.test(text) || text.length > 1_000_000) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** @param {[string, unknown]} entry @param {string} needle Lower case. @returns {boolean} */
export function matches([name, value], needle) {
  return needle === "" || name.toLowerCase().includes(needle) || asText(value).toLowerCase().includes(needle);
}
