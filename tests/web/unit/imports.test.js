import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const WEB = fileURLToPath(new URL("../../../web", import.meta.url));
const LAYERS = ["host", "data", "media", "view"]; // each imports itself and those before it
const FILES = readdirSync(WEB, { recursive: true }).filter((name) => name.endsWith(".js"));

/** What a file of web/ imports, also what its types name. */
function importsOf(file) {
  const text = readFileSync(join(WEB, file), "utf8");
  const found = [...text.matchAll(/(^(?:import|export [*{])[^"]*|\bimport\()"(\.[^"]+)"/gm)];
  return found
    .filter(([, , to]) => !to.includes("/scripts/"))
    .map(([, how, to]) => ({ to: relative(WEB, resolve(WEB, dirname(file), to)), isType: how === "import(" }));
}

const layerOf = (file) => LAYERS.indexOf(file.split(/[\\/]/)[1]);

test("folders import in one direction, for types, too", () => {
  const inLib = FILES.filter((file) => layerOf(file) >= 0);
  const others = FILES.filter((file) => !inLib.includes(file)).sort();
  assert.deepEqual(others, ["sidestream.js", "watch.js"], "all but the main modules stand in one of the four folders");
  const all = inLib.flatMap((file) => importsOf(file).map(({ to }) => [file, to]));
  assert.ok(all.length > 100);
  assert.deepEqual(all.filter(([file, to]) => layerOf(to) < 0 || layerOf(to) > layerOf(file)), []);
});

test("no file imports itself by way of others", () => {
  const graph = new Map(FILES.map((file) => [file, importsOf(file).filter(({ isType }) => !isType).map(({ to }) => to)]));
  // Take away what imports nothing that is left, until nothing can be taken away.
  for (let before = 0; before !== graph.size; ) {
    before = graph.size;
    for (const [file, to] of graph) if (!to.some((one) => graph.has(one))) graph.delete(file);
  }
  assert.deepEqual([...graph.keys()], []);
});

test("only lib/host imports ComfyUI's page", () => {
  const importing = FILES.filter((file) => readFileSync(join(WEB, file), "utf8").includes("/scripts/"));
  assert.deepEqual(importing.map((file) => file.replaceAll("\\", "/")), ["lib/host/comfy.js"]);
});
