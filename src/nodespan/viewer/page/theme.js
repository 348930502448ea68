// Colours for the canvas: those of the style sheet, read again when the system's theme changes.

import { KINDS } from "kinds";

/** @typedef {{ kinds: string[], text: string, dim: string, line: string, error: string, band: string, accent: string, path: string, back: string }} Colours */

/** @type {Colours | null} */
let cache = null;

/** @returns {Colours} */
export function colours() {
  if (!cache) {
    const style = getComputedStyle(document.documentElement);
    const get = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim() || "#888";
    cache = {
      kinds: KINDS.map((kind) => get(`kind-${kind}`)), text: get("text"), dim: get("dim"), line: get("line"),
      error: get("error"), band: get("band"), accent: get("accent"), path: get("path"), back: get("back"),
    };
  }
  return cache;
}

/** @param {() => void} redraw Called after the system's theme has changed. @returns {() => void} Ends it. */
export function onThemeChange(redraw) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const changed = () => {
    cache = null;
    redraw();
  };
  dark.addEventListener("change", changed);
  return () => dark.removeEventListener("change", changed);
}

/** @returns {boolean} Reduced motion is set in the system. */
export function isCalm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/**
 * Size a canvas for the screen's resolution.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height CSS pixels
 * @returns {CanvasRenderingContext2D} Cleared, in CSS pixels.
 */
export function prepared(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
