// The names of the waterfall: a tree of which only the rows in sight are elements, used again and again.

import { ROW } from "bars";
import { el } from "dom";
import { duration, integer, line, phaseText } from "format";
import { KINDS } from "kinds";
import { value } from "router";
import { LOST } from "trace";

const INDENT = 14, INDENT_MAX = 14;

/** @typedef {{ element: HTMLElement, twist: HTMLElement, dot: HTMLElement, op: HTMLElement, name: HTMLElement, note: HTMLElement, node: number }} Row */

/** @param {App} app */
export function createRows(app) {
  const element = el("div", { class: "names", role: "tree", tabindex: "0", "aria-label": "Spans of the run" });
  /** @type {Row[]} */
  const pool = [];

  /** @param {number} i @returns {Row} */
  function row(i) {
    let found = pool[i];
    if (!found) {
      const [twist, dot] = [el("span", { class: "twist", "aria-hidden": "true" }), el("span", { class: "dot", "aria-hidden": "true" })];
      const [op, name, note] = [el("span", { class: "op" }), el("span", { class: "name" }), el("span", { class: "note" })];
      const made = el("div", { class: "row", role: "treeitem", id: `row-${i}` }, twist, dot, op, name, note);
      found = { element: made, twist, dot, op, name, note, node: -1 };
      const self = found;
      made.addEventListener("click", (event) => {
        const isTwist = event.target === twist;
        if (isTwist || app.cursor() === self.node) app.toggle(self.node);
        if (!isTwist) app.moveTo(self.node);
      });
      pool[i] = found;
      element.append(made);
    }
    return found;
  }

  return {
    element,
    /**
     * @param {Tree} tree @param {{ nodes: Int32Array, depth: Uint16Array }} shown @param {number} first @param {number} last
     * @param {number} offset Pixels above the viewport @param {number} cursor @param {Readonly<AppState>} state
     */
    draw(tree, shown, first, last, offset, cursor, state) {
      const needle = value(state.route, "q").toLowerCase();
      let active = "";
      for (let i = first; i < last; i++) {
        const node = /** @type {number} */ (shown.nodes[i]);
        const item = row(i - first);
        item.node = node;
        item.element.hidden = false;
        item.element.style.transform = `translateY(${Math.round(i * ROW - offset)}px)`;
        item.element.style.paddingLeft = `${8 + Math.min(shown.depth[i] ?? 0, INDENT_MAX) * INDENT}px`;
        describe(item, tree, node, state, needle);
        setAttributes(item.element, {
          "aria-level": String((shown.depth[i] ?? 0) + 1), "aria-posinset": String(i + 1), "aria-setsize": String(shown.nodes.length),
          "aria-selected": String(node === cursor), "data-id": tree.keyOf(node),
        });
        if (node === cursor) active = item.element.id;
      }
      for (let i = last - first; i < pool.length; i++) {
        const unused = /** @type {Row} */ (pool[i]).element;
        unused.hidden = true;
        unused.setAttribute("aria-selected", "false");
      }
      if (active) element.setAttribute("aria-activedescendant", active);
      else element.removeAttribute("aria-activedescendant");
    },
  };
}

/** @param {Element} element @param {Record<string, string>} attributes Sets only what differs. */
function setAttributes(element, attributes) {
  for (const [name, text] of Object.entries(attributes)) if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** @param {Row} item @param {Tree} tree @param {number} node @param {Readonly<AppState>} state @param {string} needle */
function describe(item, tree, node, state, needle) {
  const hasBelow = tree.below(node).length > 0;
  const isOpen = hasBelow && tree.isOpen(node, state.open);
  set(item.twist, hasBelow ? (isOpen ? "▾" : "▸") : "");
  if (hasBelow) setAttributes(item.element, { "aria-expanded": String(isOpen) });
  else item.element.removeAttribute("aria-expanded");
  const { op, name, kind, note, words } = node < tree.n ? ofSpan(tree, node, isOpen) : ofGroup(tree, node);
  set(item.op, op && `${op} `); // the space is for screen readers, which read the row as one text
  set(item.name, note ? `${name} ` : name);
  set(item.note, note);
  const isMatch = needle !== "" && `${op} ${name}`.toLowerCase().includes(needle);
  const className = `row kind-${kind}${words.includes("error") ? " is-error" : ""}${isMatch ? " is-match" : ""}`;
  if (item.element.className !== className) item.element.className = className;
  const label = [[op, name, note].filter(Boolean).join(" "), ...words].join(", ");
  if (item.element.getAttribute("aria-label") !== label) item.element.setAttribute("aria-label", label);
}

/** @param {HTMLElement} element @param {string} text */
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {Tree} tree @param {number} row @param {boolean} isOpen */
function ofSpan(tree, row, isOpen) {
  const { trace } = tree;
  const { op, name } = split(trace, row);
  const below = /** @type {number} */ (/** @type {Int32Array} */ (tree.errors)[row]);
  const isError = trace.status[row] === 2;
  /** @type {string[]} */
  const words = [duration(trace.end(row, trace.now()) - /** @type {number} */ (trace.start[row]))];
  let note = "";
  if (trace.isOpen(row)) {
    note = phaseText(trace.phases.get(row)) || (trace.state[row] === 2 ? "silent" : "");
    words.push("running", note);
  }
  if (trace.state[row] === LOST) {
    note = "lost";
    words.push("lost");
  }
  if (isError) {
    note = "✕";
    words.push("error");
  } else if (!isOpen && below > 0) {
    note = `✕ ${below} inside`;
    words.push(`${below} errors inside`);
  }
  return { op, name, kind: KINDS[tree.kinds[row] ?? 0] ?? "other", note, words: words.filter(Boolean) };
}

/** @param {Tree} tree @param {number} node */
function ofGroup(tree, node) {
  const group = tree.groupOf(node);
  const errors = /** @type {number} */ (/** @type {Int32Array} */ (tree.errors)[node]);
  const first = group.members.find((member) => member < tree.n);
  const kind = group.kind === "fold" && first !== undefined ? KINDS[tree.kinds[first] ?? 0] ?? "other" : "loop";
  const label = line(group.label);
  return {
    op: "", name: group.kind === "fold" ? `${label} ×${integer(group.count)}` : label, kind,
    note: errors ? `✕ ${errors}` : "", words: errors ? [`${errors} errors`] : [],
  };
}

/**
 * The operation and its subject, separately, of a name such as `invoke_node plan`.
 * @param {Trace} trace @param {number} row @returns {{ op: string, name: string }}
 */
export function split(trace, row) {
  const [name, operation] = [trace.text("name", row), trace.text("operation", row)];
  if (operation && name.startsWith(`${operation} `)) return { op: line(OP_WORDS[operation] ?? operation), name: line(name.slice(operation.length + 1)) };
  return { op: "", name: line(name) };
}

/** @type {Record<string, string>} */
const OP_WORDS = { invoke_workflow: "run", invoke_node: "node", execute_tool: "tool", text_completion: "completion" };

