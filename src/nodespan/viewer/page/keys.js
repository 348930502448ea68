// The keyboard: one listener, one table of help.

import { button, el, isTyping } from "dom";

/** @type {[string, [string, string][]][]} */
export const HELP = [
  ["Everywhere", [["j k", "next, previous row"], ["Enter", "open the run; in a run: to the details"], ["/", "find or filter"], ["e", "next error"], ["?", "this help"], ["Esc", "leave a field, close this"]]],
  ["Runs", [["c", "group by conversation"], ["]", "older runs"], ["[", "newer runs"]]],
  ["A run", [["w", "waterfall"], ["g", "graph"], ["c", "conversation"], ["s", "state"], ["[ ]", "previous, next execution of the same node"], ["u", "all runs"]]],
  ["Waterfall", [["h l", "close or to the parent; open or to the first child"], ["a", "open everything, or what was open at first"], ["z", "zoom to the selection"], ["0", "the whole run"], ["n", "spans of frameworks"], ["x", "critical path"], ["Ctrl + wheel", "zoom"], ["drag", "in the strip: choose a range"]]],
  ["Graph", [["h l", "previous, next node"], ["Enter", "open a subgraph"], ["o", "out of a subgraph"]]],
];

/**
 * @param {(name: string) => boolean} handle Returns whether the key means something here.
 * @returns {() => void} Ends it.
 */
export function listen(handle) {
  const listener = (/** @type {KeyboardEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (isTyping(event.target)) {
      if (event.key === "Escape" && event.target instanceof HTMLElement) event.target.blur();
      return;
    }
    const isControl = event.target instanceof Element && event.target.closest("button, a, summary, select");
    if (isControl && (event.key === "Enter" || event.key === " ")) return;
    if (handle(event.key)) event.preventDefault();
  };
  document.addEventListener("keydown", listener);
  return () => document.removeEventListener("keydown", listener);
}

/** @param {() => void} close @returns {HTMLDialogElement} */
export function helpDialog(close) {
  const dialog = el("dialog", { class: "help", "aria-label": "Keys", onclose: close },
    el("header", {}, el("h2", {}, "Keys"), button("×", () => dialog.close(), { class: "close", "aria-label": "Close the help" })),
    el("div", { class: "help-groups" }, ...HELP.map(([title, rows]) => el("section", {}, el("h3", {}, title),
      el("dl", {}, ...rows.flatMap(([key, meaning]) => [el("dt", {}, ...key.split(" ").map((each) => (each === "+" ? "+" : el("kbd", {}, each)))), el("dd", {}, meaning)]))))));
  return dialog;
}

/**
 * The keys to the next and to the previous row.
 * @param {(by: number) => void} move @returns {Record<string, () => void>}
 */
export function rowKeys(move) {
  return { j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1) };
}

/** @param {Record<string, () => unknown>} keys @param {string} name @returns {boolean} Whether it is one of the keys. */
export function press(keys, name) {
  keys[name]?.();
  return name in keys;
}
