import { el } from "dom";
/** @param {App} _app @returns {View} */
export function createGraph(_app) {
  return { element: el("section", { class: "graph" }), update() {} };
}
