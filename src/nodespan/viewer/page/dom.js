// Elements from code. Text is always a text node; nothing here parses HTML, and no attribute holds code or style.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Node | string | null | undefined | false} Child */
/** @typedef {Record<string, unknown>} Properties */

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties} [properties] `class`, attributes, and `onX` listeners.
 * @param {...Child} children Strings become text nodes.
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  apply(element, properties);
  append(element, children);
  return element;
}

/**
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag @param {Properties} [properties] @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function svg(tag, properties, ...children) {
  const element = /** @type {SVGElementTagNameMap[T]} */ (document.createElementNS(SVG, tag));
  apply(element, properties);
  append(element, children);
  return element;
}

/** @param {Element} element @param {Properties} [properties] */
function apply(element, properties) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2).toLowerCase(), /** @type {EventListener} */ (value));
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
}

/** @param {Element} element @param {Child[]} children */
function append(element, children) {
  for (const child of children) if (child !== null && child !== undefined && child !== false) element.append(child);
}

/** @param {Element} element @param {...Child} children Replaces what the element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** @param {string} label @param {() => void} action @param {Properties} [properties] @returns {HTMLButtonElement} */
export function button(label, action, properties) {
  return el("button", { type: "button", onclick: action, ...properties }, label);
}

/** @param {EventTarget | null} target @returns {boolean} Keys typed there are text. */
export function isTyping(target) {
  return target instanceof HTMLElement && (["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName) || target.isContentEditable);
}

/**
 * Call `draw` at most once per frame.
 * @param {() => void} draw @returns {() => void}
 */
export function oncePerFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}
