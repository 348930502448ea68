// Between the URL and a Route. Every state of a page is in the URL, so that it can be kept and sent.
// From a server the page is the path; in a mailed file, which has one path only, it is in the fragment.

/** @param {URL} url @param {boolean} isFile @returns {Route} */
export function parse(url, isFile) {
  const inner = isFile ? new URL(url.hash.slice(1) || "/", "http://file.invalid") : url;
  /** @type {Record<string, string[]>} */
  const query = {};
  for (const [name, value] of inner.searchParams) if (value !== "") (query[name] ??= []).push(value);
  const match = /^\/trace\/([0-9a-f]{1,32})\/?$/.exec(inner.pathname);
  return match ? { page: "trace", traceId: match[1] ?? "", query } : { page: "runs", traceId: "", query };
}

/** @param {Route} route @param {boolean} isFile @returns {string} */
export function href(route, isFile) {
  const parameters = new URLSearchParams();
  for (const [name, values] of Object.entries(route.query)) for (const value of values) if (value !== "") parameters.append(name, value);
  const text = parameters.toString().replace(/%2C/g, ",").replace(/%3A/g, ":").replace(/%2F/g, "/").replace(/%3D/g, "=");
  const path = (route.page === "trace" ? `/trace/${route.traceId}` : "/") + (text ? `?${text}` : "");
  return isFile ? `#${path}` : path;
}

/** @param {Route} route @param {string} name @returns {string} The value, or an empty string. */
export function value(route, name) {
  return route.query[name]?.[0] ?? "";
}

/**
 * @param {Route} route
 * @param {Record<string, string | string[] | null>} patch An empty text or null removes the name.
 * @returns {Route} The same page with a changed query.
 */
export function withQuery(route, patch) {
  const query = { ...route.query };
  for (const [name, given] of Object.entries(patch)) {
    const values = given === null ? [] : Array.isArray(given) ? given : [given];
    const kept = values.filter((each) => each !== "");
    if (kept.length) query[name] = kept;
    else delete query[name];
  }
  return { ...route, query };
}

/** Names of the filter's fields in `/runs.json`. */
export const FILTERS = ["service", "workflow", "node", "model", "conversation", "user", "tag", "meta", "graph", "id", "min", "error", "running", "since", "until"];

/** @param {Route} route @returns {URLSearchParams} The filter of a list, for `/runs.json` and `/events`. */
export function filterOf(route) {
  const parameters = new URLSearchParams();
  for (const name of FILTERS) for (const each of route.query[name] ?? []) parameters.append(name, each);
  return parameters;
}

/** @param {string} traceId @param {Record<string, string>} [query] @returns {Route} */
export function traceRoute(traceId, query = {}) {
  return { page: "trace", traceId, query: Object.fromEntries(Object.entries(query).map(([name, each]) => [name, [each]])) };
}

/** @param {Record<string, string>} [query] @returns {Route} */
export function runsRoute(query = {}) {
  return { page: "runs", traceId: "", query: Object.fromEntries(Object.entries(query).map(([name, each]) => [name, [each]])) };
}
