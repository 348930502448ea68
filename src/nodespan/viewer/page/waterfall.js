// The waterfall: names as a virtual list of elements, bars on a canvas beside them. Only rows in sight are drawn.

import { drawRow, ROW } from "bars";
import { criticalPath } from "critical";
import { el, fill, oncePerFrame } from "dom";
import { press, rowKeys } from "keys";
import { createMinimap } from "minimap";
import { createRows } from "rows";
import { value } from "router";
import { clamped, scrollScale, zoomed } from "scale";
import { colours, isCalm, onThemeChange, prepared } from "theme";
import { createToolbar } from "toolbar";

const PULSE_MS = 100;
const URL_AFTER_MS = 300;

/** @param {App} app @returns {View} */
export function createWaterfall(app) {
  const toolbar = createToolbar(app);
  const minimap = createMinimap((range) => setRange(range));
  const canvas = el("canvas", { class: "bars", "aria-hidden": "true" });
  const rows = createRows(app);
  const pane = el("div", { class: "pane" }, rows.element, canvas);
  const spacer = el("div", { class: "spacer" });
  const scroller = el("div", { class: "scroller", tabindex: "-1" }, pane, spacer);
  const empty = el("p", { class: "empty", hidden: true }, "No span of this run is shown.");
  const element = el("section", { class: "waterfall", "aria-label": "Waterfall" },
    toolbar.element, el("div", { class: "map" }, el("div", { class: "map-names" }), minimap.canvas), scroller, empty);

  /** @type {{ nodes: Int32Array, depth: Uint16Array }} */
  let shown = { nodes: new Int32Array(0), depth: new Uint16Array(0) };
  /** @type {Tree | null} */
  let tree = null;
  /** @type {import("./scale.js").Range | null} null is the whole. */
  let range = null;
  /** @type {Map<number, number[]> | null} */
  let path = null;
  let whole = 1;
  let scale = scrollScale(0, ROW, 0);
  let pulseTimer = 0;
  let urlTimer = 0;
  /** @type {unknown[]} What the strip was drawn from. */
  let mapped = [];
  let isFollowing = true; // during a run the newest row stays in sight until the user scrolls away from the end
  const draw = oncePerFrame(drawNow);

  const length = () => (tree?.trace.isLive ? wholeOf(tree) : whole);
  const inSight = () => range ?? { from: 0, to: length() };

  /** @param {import("./scale.js").Range | null} next */
  function setRange(next) {
    range = next && next.to - next.from < length() * 0.999 ? next : null;
    draw();
    clearTimeout(urlTimer);
    urlTimer = window.setTimeout(() => {
      app.patch({ from: range ? String(Math.round(range.from)) : null, to: range ? String(Math.round(range.to)) : null }, true);
    }, URL_AFTER_MS);
  }

  function drawNow() {
    if (!tree || !element.isConnected) return;
    const height = scroller.clientHeight;
    const offset = scale.offset(scroller.scrollTop);
    const first = Math.floor(offset / ROW);
    const last = Math.min(shown.nodes.length, Math.ceil((offset + height) / ROW));
    const cursor = app.cursor();
    rows.draw(tree, shown, first, last, offset, cursor, app.store.get());
    const width = canvas.clientWidth;
    const context = prepared(canvas, width, height);
    const now = tree.trace.now();
    const drawing = { context, tree, width, range: inSight(), now, path, pulse: pulse() };
    for (let i = first; i < last; i++) {
      const node = /** @type {number} */ (shown.nodes[i]);
      const y = Math.round(i * ROW - offset);
      if (node === cursor) {
        context.fillStyle = colours().band;
        context.fillRect(0, y, width, ROW);
      }
      drawRow(drawing, node, y);
    }
    drawMap();
    schedulePulse();
  }

  /** The strip shows the whole run: scrolling does not change it; during a run it is drawn twice a second. */
  function drawMap() {
    if (!tree) return;
    const { from, to } = inSight();
    const clock = tree.trace.isLive ? Math.floor(performance.now() / 500) : 0;
    const drawing = [tree, shown.nodes, from, to, minimap.canvas.clientWidth, clock, colours()];
    if (drawing.every((value, i) => value === mapped[i])) return;
    mapped = drawing;
    minimap.draw(tree, shown.nodes, length(), { from, to });
  }

  /** @returns {number} 0 to 1, about once a second; 1 with reduced motion. */
  const pulse = () => (isCalm() ? 1 : (1 + Math.cos(performance.now() / 190)) / 2);

  function schedulePulse() {
    clearTimeout(pulseTimer);
    if (tree?.trace.isLive && !document.hidden) pulseTimer = window.setTimeout(draw, isCalm() ? 1000 : PULSE_MS);
  }

  /** Applies another tree, other choices or another size. */
  function layOut() {
    if (!tree) return;
    shown = tree.walk(app.store.get().open);
    whole = wholeOf(tree);
    measure();
  }

  function measure() {
    const height = scroller.clientHeight;
    scale = scrollScale(shown.nodes.length, ROW, height);
    pane.style.height = `${height}px`;
    spacer.style.height = `${Math.max(0, scale.height - height)}px`;
    empty.hidden = shown.nodes.length > 0;
    draw();
  }

  /** @param {number} node Scroll until it is in sight. */
  function show(node) {
    const index = shown.nodes.indexOf(node);
    if (index < 0) return;
    const height = scroller.clientHeight;
    const offset = scale.offset(scroller.scrollTop);
    if (index * ROW < offset + ROW) scroller.scrollTop = scale.scrollTop(Math.max(0, (index - 2) * ROW));
    else if ((index + 2) * ROW > offset + height) scroller.scrollTop = scale.scrollTop((index + 3) * ROW - height);
  }

  function showNewest() {
    if (!tree?.trace.isLive || !isFollowing || app.cursor() >= 0) return;
    for (let i = shown.nodes.length - 1; i >= 0; i--) {
      const node = /** @type {number} */ (shown.nodes[i]);
      if (node < tree.n && tree.trace.isOpen(node)) return show(node);
    }
  }

  /** @param {number} by Rows. */
  function move(by) {
    if (!shown.nodes.length) return;
    const index = shown.nodes.indexOf(app.cursor());
    const next = index < 0 ? 0 : Math.min(Math.max(0, index + by), shown.nodes.length - 1);
    app.moveTo(/** @type {number} */ (shown.nodes[next]));
  }

  function shut() {
    const node = app.cursor();
    if (!tree || node < 0) return;
    const hasOpenBelow = tree.below(node).length > 0 && tree.isOpen(node, app.store.get().open);
    if (hasOpenBelow) app.toggle(node, false);
    else if (tree.parentOf(node) >= 0) app.moveTo(tree.parentOf(node));
  }

  function unfold() {
    const node = app.cursor();
    if (!tree || node < 0 || !tree.below(node).length) return;
    if (tree.isOpen(node, app.store.get().open)) app.moveTo(/** @type {number} */ (tree.below(node)[0]));
    else app.toggle(node, true);
  }

  function zoomToCursor() {
    const node = app.cursor();
    if (!tree || node < 0) return;
    const [start, end] = [tree.startOf(node), tree.endOf(node, tree.trace.now())];
    const margin = Math.max(1, (end - start) * 0.05);
    setRange(clamped({ from: start - margin, to: end + margin }, length()));
  }

  scroller.addEventListener("scroll", draw, { passive: true });
  for (const name of ["wheel", "touchmove", "pointerdown"]) {
    scroller.addEventListener(name, () => setTimeout(() => (isFollowing = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - ROW), 100), { passive: true });
  }
  scroller.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    const { from, to } = inSight();
    const us = from + ((event.clientX - box.left) / box.width) * (to - from);
    if (event.ctrlKey || event.metaKey) setRange(zoomed({ from, to }, us, Math.exp(event.deltaY / 300), length()));
    else setRange(clamped({ from: from + (event.deltaX / box.width) * (to - from), to: to + (event.deltaX / box.width) * (to - from) }, length()));
  }, { passive: false });
  canvas.addEventListener("click", (event) => {
    const index = Math.floor((event.offsetY + scale.offset(scroller.scrollTop)) / ROW);
    const node = shown.nodes[index];
    if (node !== undefined) app.moveTo(node);
  });
  const resized = new ResizeObserver(measure);
  resized.observe(scroller);
  const endTheme = onThemeChange(draw);
  const visible = () => !document.hidden && draw();
  document.addEventListener("visibilitychange", visible);

  /** @type {Record<string, () => void>} */
  const keys = {
    ...rowKeys(move),
    h: shut, l: unfold, ArrowLeft: shut, ArrowRight: unfold,
    PageDown: () => move(Math.max(1, Math.floor(scroller.clientHeight / ROW) - 1)),
    PageUp: () => move(-Math.max(1, Math.floor(scroller.clientHeight / ROW) - 1)),
    Home: () => move(-Infinity), End: () => move(Infinity),
    z: zoomToCursor, "0": () => setRange(null),
    a: () => app.openAll(), n: () => toolbar.toggle("noise"), x: () => toolbar.toggle("critical"), "/": () => toolbar.search(),
  };

  return {
    element,
    key: (name) => press(keys, name),
    update(state, changed) {
      const isOther = state.tree !== tree;
      const isFirst = !tree;
      tree = state.tree;
      if (isFirst || changed.has("route")) {
        const [from, to] = [Number(value(state.route, "from")), Number(value(state.route, "to"))];
        if (to > from) range = { from, to };
        else if (!urlTimer || isFirst) range = null;
      }
      if (isOther || changed.has("route")) path = tree && value(state.route, "critical") ? criticalPath(tree) : null;
      toolbar.update(state, shown);
      if (isOther || changed.has("open")) layOut();
      else draw();
      if (isOther) showNewest();
      if (isFirst || changed.has("route")) requestAnimationFrame(() => show(app.cursor()));
    },
    destroy() {
      clearTimeout(pulseTimer);
      clearTimeout(urlTimer);
      resized.disconnect();
      endTheme();
      document.removeEventListener("visibilitychange", visible);
      fill(element);
    },
  };
}

const ROOM = 1.06; // for the label beside the last bar

/** @param {Tree} tree @returns {number} µs from the trace's start to its last end, and room for a label. */
export function wholeOf(tree) {
  const { trace } = tree;
  const now = trace.now();
  if (trace.isLive) return now * ROOM;
  let end = 1;
  for (let row = 0; row < trace.n; row++) end = Math.max(end, trace.end(row, now));
  return end * ROOM;
}

