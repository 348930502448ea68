// The run as a conversation: messages, tool calls and their results, interrupts.

import { asText } from "attributes";
import { button, el, fill } from "dom";
import { duration, integer, line, visible } from "format";
import { press, rowKeys } from "keys";
import { nodeAround } from "trace";

const LONG = 4000;
/** @type {Record<string, string>} */
const WORDS = { user: "User", assistant: "Assistant", system: "System", tool_call: "Tool call", tool_result: "Tool result", interrupt: "Interrupt", resume: "Resume" };
const SWITCH = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=SPAN_ONLY";

/** @param {App} app @returns {View} */
export function createConversation(app) {
  const element = el("section", { class: "conversation", "aria-label": "Conversation", tabindex: "0" });

  /** @returns {HTMLElement[]} */
  const items = () => /** @type {HTMLElement[]} */ ([...element.querySelectorAll(".message")]);

  /** @param {number} by */
  function move(by) {
    const all = items();
    const row = String(app.cursor());
    // Several messages may belong to one span.
    let at = all.findIndex((item) => item.dataset["row"] === row);
    if (at < 0) at = by > 0 ? 0 : all.length - 1;
    else while (all[at]?.dataset["row"] === row) at += by;
    const next = all[at];
    if (next) app.select(Number(next.dataset["row"]));
  }

  const keys = rowKeys(move);

  return {
    element,
    key: (name) => press(keys, name),
    update(state, changed) {
      const { messages, trace } = state;
      if (changed.has("messages")) fill(element, ...(messages && trace ? content(app, messages, trace) : [el("p", { class: "empty" }, "Reading the messages …")]));
      const row = String(app.cursor());
      for (const item of items()) {
        const isSelected = item.dataset["row"] === row;
        if (isSelected && !item.classList.contains("is-selected") && !changed.has("messages")) item.scrollIntoView({ block: "nearest" });
        item.classList.toggle("is-selected", isSelected);
      }
    },
  };
}

/** @param {App} app @param {MessagesDocument} messages @param {Trace} trace @returns {HTMLElement[]} */
function content(app, messages, trace) {
  const list = messages.items.map((item) => message(app, item, trace));
  if (messages.is_captured) return list.length ? [el("ol", { class: "messages" }, ...list)] : [el("p", { class: "empty" }, "This run has no messages.")];
  const how = el("div", { class: "empty how" },
    el("p", {}, "The texts of this run were not captured. To capture prompts, answers, tool arguments and results of later runs, set"),
    el("pre", {}, SWITCH), el("p", {}, "in the environment of the program. Redaction runs before a text is stored; see docs/privacy.md."));
  return list.length ? [how, el("ol", { class: "messages" }, ...list)] : [how];
}

/** @param {App} app @param {MessageItem} item @param {Trace} trace */
function message(app, item, trace) {
  const text = visible(asText(item.text));
  const body = el("div", { class: "text" }, text.length > LONG ? `${text.slice(0, LONG)}…` : text);
  if (text.length > LONG) body.append(button(`all ${integer(text.length)} characters`, () => fill(body, text)));
  const node = item.row >= 0 ? nodeAround(trace, item.row) : "";
  return el("li", { class: `message is-${item.kind in WORDS ? item.kind : "other"}`, "data-row": item.row, onclick: () => item.row >= 0 && app.select(item.row) },
    el("div", { class: "who" }, el("b", {}, WORDS[item.kind] ?? line(item.kind)), item.name ? ` ${line(item.name)}` : "",
      el("span", { class: "dim" }, `${node ? ` · ${line(node)}` : ""} · + ${duration(item.time_us)}`)), body);
}
