// Resolves the bare names of the page's modules, as its import map does. `node --import ./tests/page/hooks.mjs --test`.
import { register } from "node:module";

const FOLDER = new URL("../../src/nodespan/viewer/page/", import.meta.url).href;
const SOURCE = `
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
export async function resolve(specifier, context, next) {
  const file = new URL(specifier + ".js", ${JSON.stringify(FOLDER)});
  if (/^[a-z]+$/.test(specifier) && existsSync(fileURLToPath(file))) return { url: file.href, format: "module", shortCircuit: true };
  return next(specifier, context);
}`;
register(`data:text/javascript,${encodeURIComponent(SOURCE)}`);
