// Search, switches and legend above the waterfall.

import { button, el, fill } from "dom";
import { integer } from "format";
import { KINDS } from "kinds";
import { value } from "router";

/** @type {[string, string][]} */
const LEGEND = [["workflow", "run"], ["node", "node"], ["model", "model"], ["tool", "tool"], ["queue", "queue"], ["load", "load"], ["prefill", "prefill"], ["decode", "decode"]];

/** @param {App} app */
export function createToolbar(app) {
  const input = el("input", {
    type: "search", placeholder: "Find a span  /", "aria-label": "Find a span by name", spellcheck: "false", autocomplete: "off",
    oninput: () => app.patch({ q: input.value }, true),
    onkeydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") next(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") input.blur();
    },
  });
  const found = el("span", { class: "found", role: "status" });
  const noise = button("Framework", () => toggle("noise"), { class: "switch", "aria-pressed": "false", title: "Show spans of frameworks and libraries (n)" });
  const critical = button("Critical path", () => toggle("critical"), { class: "switch", "aria-pressed": "false", title: "Mark the spans that determined the end time (x)" });
  const legend = el("span", { class: "legend" });
  /** @type {Tree | null} */
  let explained = null;
  const element = el("div", { class: "toolbar" }, input, found, noise, critical, legend);

  /** @param {"noise" | "critical"} name */
  function toggle(name) {
    app.patch({ [name]: value(app.store.get().route, name) ? null : "1" }, true);
  }

  /** @returns {number[]} Rows whose name contains the text. */
  function matches() {
    const { tree, route } = app.store.get();
    const needle = value(route, "q").toLowerCase();
    if (!tree || !needle) return [];
    const { trace } = tree;
    const names = trace.strings.map((text) => text.toLowerCase().includes(needle));
    /** @type {number[]} */
    const rows = [];
    for (let row = 0; row < trace.n; row++) {
      const isIn = names[/** @type {number} */ (trace.name[row])] || names[/** @type {number} */ (trace.node[row])];
      if (isIn && tree.parentOf(row) > -2) rows.push(row);
    }
    return rows;
  }

  /** @param {1 | -1} by */
  function next(by) {
    const rows = matches();
    if (!rows.length) return;
    const at = rows.indexOf(app.cursor());
    const index = at < 0 ? (by > 0 ? 0 : rows.length - 1) : (at + by + rows.length) % rows.length;
    app.select(/** @type {number} */ (rows[index]));
  }

  return {
    element,
    toggle,
    search: () => input.focus(),
    /** @param {Readonly<AppState>} state @param {{ nodes: Int32Array }} _shown */
    update(state, _shown) {
      const text = value(state.route, "q");
      if (document.activeElement !== input) input.value = text;
      const count = text ? matches().length : 0;
      fill(found, text ? (count === 1 ? "1 span" : `${integer(count)} spans`) : "");
      noise.setAttribute("aria-pressed", String(value(state.route, "noise") === "1"));
      noise.hidden = !noise.matches('[aria-pressed="true"]') && !state.tree?.hidden;
      fill(noise, state.tree?.hidden ? `Framework (${integer(state.tree.hidden)})` : "Framework");
      if (state.tree !== explained) fill(legend, ...legendOf(state.tree));
      explained = state.tree;
      critical.setAttribute("aria-pressed", String(value(state.route, "critical") === "1"));
    },
  };
}

/** @param {Tree | null} tree @returns {HTMLElement[]} The colours of what occurs in it. */
function legendOf(tree) {
  const kinds = new Set(tree?.kinds);
  return LEGEND.filter(([kind]) => kinds.has(KINDS.indexOf(kind))).map(([kind, word]) =>
    el("span", { class: `key kind-${kind}` }, el("span", { class: "dot", "aria-hidden": "true" }), word));
}
