// The filter bar of the runs. It has no state: it shows the URL's.

import { button, el, fill } from "dom";
import { dateTime, duration, line } from "format";
import { FILTERS, runsRoute, value } from "router";

const FIELDS = ["workflow", "node", "model", "service", "conversation", "user", "tag", "meta", "id", "graph"];
/** @type {[string, string][]} */
const DURATIONS = [["", "any duration"], ["1", "≥ 1 s"], ["10", "≥ 10 s"], ["60", "≥ 1 min"], ["600", "≥ 10 min"]];
/** @type {[string, string][]} */
const TIMES = [["", "any time"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"]];
/** @type {Record<string, string>} */
const LABELS = { meta: "metadata" };

/** @param {App} app */
export function createFilters(app) {
  const field = el("select", { "aria-label": "Field of the filter", onchange: () => suggest() }, ...FIELDS.map((name) => el("option", { value: name }, name)));
  const suggestions = el("datalist", { id: "filter-values" });
  const input = el("input", { type: "search", list: "filter-values", placeholder: "Filter  /", "aria-label": "Value of the filter", autocomplete: "off", spellcheck: "false" });
  const form = el("form", { class: "filter-form", role: "search", onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    add();
  } }, field, input, suggestions);
  const error = toggleButton("Errors", "error");
  const running = toggleButton("Running", "running");
  const conversations = button("Conversations", () => app.patch({ group: isOn("group") ? null : "conversation" }), { class: "switch", title: "Group runs by conversation (c)" });
  const minimum = select("Shortest duration", DURATIONS, (chosen) => app.patch({ min: chosen || null, before: null }));
  const since = select("Earliest start", TIMES, (chosen) => app.patch({ since: chosen ? sinceText(Number(chosen)) : null, before: null }));
  const chips = el("div", { class: "chips", role: "list", "aria-label": "Active filters" });
  const element = el("div", { class: "filters" }, form, minimum, since, error, running, conversations, chips);

  /** @param {string} name */
  const isOn = (name) => value(app.store.get().route, name) !== "";

  /** @param {string} text @param {string} name */
  function toggleButton(text, name) {
    return button(text, () => app.patch({ [name]: isOn(name) ? null : "1", before: null }), { class: "switch", "aria-pressed": "false" });
  }

  function add() {
    const text = input.value.trim();
    if (!text) return;
    const name = field.value;
    const known = name === "tag" || name === "meta" ? app.store.get().route.query[name] ?? [] : [];
    input.value = "";
    app.patch({ [name]: [...known.filter((each) => each !== text), text], before: null });
  }

  function suggest() {
    const name = field.value === "meta" ? "metadata" : field.value;
    const values = new Set(app.store.get().runs?.traces.flatMap((trace) => trace.labels[name] ?? []));
    fill(suggestions, ...[...values].sort().slice(0, 200).map((each) => el("option", { value: each })));
  }

  return {
    element,
    focus: () => input.focus(),
    /** @param {Readonly<AppState>} state */
    update(state) {
      const { route } = state;
      error.setAttribute("aria-pressed", String(isOn("error")));
      running.setAttribute("aria-pressed", String(isOn("running")));
      conversations.setAttribute("aria-pressed", String(isOn("group")));
      minimum.value = DURATIONS.some(([each]) => each === value(route, "min")) ? value(route, "min") : "";
      if (!isOn("since")) since.value = "";
      suggest();
      const active = FILTERS.flatMap((name) => (route.query[name] ?? []).map((text) => chip(app, name, text)));
      if (active.length) active.push(el("a", { class: "clear", href: app.href(runsRoute(isOn("group") ? { group: "conversation" } : {})) }, "Clear"));
      fill(chips, ...active);
      chips.hidden = !active.length;
    },
  };
}

/** @param {string} label @param {[string, string][]} options @param {(chosen: string) => void} chosen */
function select(label, options, chosen) {
  const element = el("select", { "aria-label": label, onchange: () => chosen(element.value) }, ...options.map(([each, text]) => el("option", { value: each }, text)));
  return element;
}

/** @param {number} seconds @returns {string} ISO 8601, UTC. */
function sinceText(seconds) {
  return `${new Date(Date.now() - seconds * 1000).toISOString().slice(0, 19)}Z`;
}

/** @param {App} app @param {string} name @param {string} text */
function chip(app, name, text) {
  const remove = () => {
    const rest = (app.store.get().route.query[name] ?? []).filter((each) => each !== text);
    app.patch({ [name]: rest, before: null });
  };
  const shown = words(name, text);
  return el("span", { class: "chip is-active", role: "listitem" }, shown, button("×", remove, { class: "remove", "aria-label": `Remove the filter ${shown}` }));
}

/** @param {string} name @param {string} text @returns {string} */
export function words(name, text) {
  if (name === "error") return "with errors";
  if (name === "running") return "running";
  if (name === "min") return `at least ${duration(Number(text) * 1e6)}`;
  if (name === "since" || name === "until") {
    const ms = /^\d+$/.test(text) ? Number(text) / 1e6 : Date.parse(text);
    return `${name} ${Number.isFinite(ms) ? dateTime(ms) : line(text)}`;
  }
  return `${LABELS[name] ?? name}: ${line(text)}`;
}
