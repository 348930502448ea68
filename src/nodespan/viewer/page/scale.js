// Time on an axis. Pure.

/**
 * @param {number} from @param {number} to µs @param {number} width Pixels.
 * @returns {{ step: number, ticks: number[] }} Round times, about one each 110 pixels.
 */
export function ticks(from, to, width) {
  const span = to - from;
  if (!(span > 0) || !(width > 0)) return { step: 1, ticks: [] };
  const step = roundStep(span / Math.max(1, Math.floor(width / 110)));
  /** @type {number[]} */
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return { step, ticks: found };
}

/** @param {number} us @returns {number} The next larger step of 1, 2, 5 × 10ⁿ, above a minute of 1, 2, 5, 10, 15, 30 minutes, hours. */
export function roundStep(us) {
  if (us > 30e6) {
    for (const minutes of [1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1440]) if (us <= minutes * 60e6) return minutes * 60e6;
    return Math.ceil(us / 86_400e6) * 86_400e6;
  }
  const power = 10 ** Math.floor(Math.log10(us));
  for (const factor of [1, 2, 5, 10]) if (us <= factor * power * 1.000001) return factor * power;
  return 10 * power;
}

/** The part of the time that is shown. @typedef {{ from: number, to: number }} Range */

/**
 * @param {Range} range @param {number} at µs that stays where it is @param {number} factor < 1 zooms in @param {number} length Of the whole, µs.
 * @returns {Range}
 */
export function zoomed(range, at, factor, length) {
  const span = Math.min(length, Math.max(1, (range.to - range.from) * factor));
  const share = (at - range.from) / (range.to - range.from);
  return clamped({ from: at - share * span, to: at + (1 - share) * span }, length);
}

/** @param {Range} range @param {number} length @returns {Range} The same span, moved into the whole. */
export function clamped(range, length) {
  const span = Math.min(length, range.to - range.from);
  const from = Math.min(Math.max(0, range.from), length - span);
  return { from, to: from + span };
}

/**
 * Between a scroll position and a row. A browser limits the height of an element, so above that limit the position is
 * scaled; below it one pixel is one pixel.
 * @param {number} rows @param {number} rowHeight @param {number} viewport Pixels @param {number} limit Pixels.
 */
export function scrollScale(rows, rowHeight, viewport, limit = 8_000_000) {
  const content = rows * rowHeight;
  const height = Math.min(content, limit);
  const factor = content > viewport && height > viewport ? (content - viewport) / (height - viewport) : 1;
  return {
    height,
    /** @param {number} scrollTop @returns {number} Pixels above the viewport. */
    offset: (scrollTop) => Math.min(Math.max(0, scrollTop * factor), Math.max(0, content - viewport)),
    /** @param {number} offset @returns {number} */
    scrollTop: (offset) => offset / factor,
  };
}
