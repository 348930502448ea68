import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { HELP } from "keys";
import { FILTERS } from "router";

const page = readFileSync(new URL("../../docs/viewer.md", import.meta.url), "utf8");

test("docs/viewer.md has every key of the help with its meaning", () => {
  for (const [title, rows] of HELP) {
    assert.ok(page.includes(`### ${title}\n`), title);
    for (const [key, meaning] of rows) assert.ok(page.includes(`| ${key.split(" ").map((each) => (each === "+" ? each : `\`${each}\``)).join(" ")} | ${meaning} |`), `${title}: ${key} ${meaning}`);
  }
});

test("docs/viewer.md has every filter and every part of a run's URL", () => {
  for (const name of [...FILTERS, "before", "group", "view", "span", "row", "q", "noise", "critical", "from", "to", "run", "sub", "iteration"]) assert.ok(page.includes(`\`${name}\``), name);
});
