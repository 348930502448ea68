// Texts of numbers, times and durations. Pure.

const THIN = "\u202f";

/** @param {number} value @returns {string} An integer in groups of three digits. */
export function integer(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+(?!\d))/g, THIN);
}

/** @param {number} us Microseconds. @returns {string} A duration with three significant digits. */
export function duration(us) {
  if (!Number.isFinite(us)) return "–";
  const abs = Math.abs(us);
  if (abs < 1) return us === 0 ? "0" : `${Math.round(us * 1000)} ns`;
  if (abs < 999.5) return `${digits(us)} µs`;
  if (abs < 999_500) return `${digits(us / 1000)} ms`;
  if (abs < 59_950_000) return `${digits(us / 1e6)} s`;
  const seconds = Math.round(us / 1e6);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${pad(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${pad(Math.floor(seconds / 60) % 60)} min`;
}

/** @param {number} value @returns {string} */
export function digits(value) {
  const abs = Math.abs(value);
  if (abs >= 99.95) return value.toFixed(0);
  return abs >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** @param {number} value @returns {string} */
function pad(value) {
  return String(value).padStart(2, "0");
}

/** @param {number | null | undefined} value @returns {string} A count of tokens, short: `842`, `12.4k`, `3.1M`. */
export function tokens(value) {
  if (value === null || value === undefined || value < 0) return "–";
  if (value < 10_000) return integer(value);
  if (value < 999_500) return `${digits(value / 1000)}k`;
  return `${digits(value / 1e6)}M`;
}

/** @param {number} value Tokens per second. @returns {string} */
export function rate(value) {
  return Number.isFinite(value) && value > 0 ? `${digits(value)} tok/s` : "–";
}

/** @param {number} part @param {number} whole @returns {string} */
export function percent(part, whole) {
  if (!(whole > 0)) return "–";
  const value = (100 * part) / whole;
  return value > 0 && value < 1 ? "< 1 %" : `${Math.round(value)} %`;
}

/** @param {number} bytes @returns {string} */
export function bytes(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1048576 ? `${digits(bytes / 1024)} KiB` : `${digits(bytes / 1048576)} MiB`;
}

/** @param {number} ms Unix time. @returns {string} Date and time of this machine's time zone, as ISO 8601. */
export function dateTime(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock(ms)}`;
}

/** @param {number} ms Unix time. @returns {string} */
export function clock(ms) {
  const at = new Date(ms);
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** @param {number} ms Unix time. @param {number} nowMs @returns {string} How long ago, in one unit. */
export function ago(ms, nowMs) {
  const seconds = Math.max(0, Math.round((nowMs - ms) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/**
 * @param {PhaseRecord | null | undefined} phase
 * @returns {string} What an open span does, such as `prefilling 62 % of 1310 tokens`.
 */
export function phaseText(phase) {
  if (!phase) return "";
  if (phase.name === "prefilling" && phase.total) return `prefilling ${percent(phase.done ?? 0, phase.total)} of ${integer(phase.total)} tokens`;
  if (phase.name === "decoding" && phase.done !== null) return `decoding, ${integer(phase.done)} tokens`;
  if (phase.name === "queued" && phase.position !== null) return `queued, ${phase.position} before it`;
  if (phase.name === "loading") return "loading the model";
  if (phase.name === "tool") return `tool ${visible(phase.text)}`;
  if (phase.name === "retrying") return `retrying after ${visible(phase.text)}`;
  return phase.name;
}

// Invisible characters: controls (ANSI sequences begin with one), directional overrides and isolates, separators. They
// are made visible and must not affect the text beside them.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** @param {string} text @returns {string} The text with characters that are not visible replaced by ones that are. */
export function visible(text) {
  return text.replace(INVISIBLE, (character) => {
    const code = character.charCodeAt(0);
    if (code === 0x0d) return "␍";
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

/** @param {string} text @returns {string} The same for one line: line breaks and tabs are visible too. */
export function line(text) {
  return visible(text).replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}
