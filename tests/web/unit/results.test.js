import assert from "node:assert/strict";
import { test } from "node:test";

import { Prompts } from "../../../web/lib/data/prompts.js";
import { Results } from "../../../web/lib/data/results.js";
import { FrameStore } from "../../../web/lib/data/store.js";
import { Watching } from "../../../web/lib/data/watching.js";
import { receive } from "../../../web/lib/data/wire.js";
import { api, endRun, preview, previews, tell } from "./comfy.js";

const node = (class_type, inputs = {}) => ({ class_type, inputs });
/** Two samplers one after the other, each with a picture of its own; 40 shows what was loaded. */
const NODES = {
  10: node("KSampler", { latent_image: ["1", 0] }),
  11: node("KSampler", { latent_image: ["10", 0] }),
  20: node("Decode", { samples: ["10", 0] }),
  21: node("Decode", { samples: ["11", 0] }),
  30: node("PreviewImage", { images: ["20", 0] }),
  31: node("SaveImage", { images: ["21", 0] }),
  40: node("PreviewImage", { images: ["1", 1] }),
};

/** A store whose results are as large as their names say, or cannot be had; no file is fetched twice. */
function opened({ nodes = NODES, limits = { frames: 600, bytes: 4000 } } = {}) {
  const store = new FrameStore(() => limits);
  const prompts = new Prompts();
  if (nodes) prompts.remember("p", nodes, { opened: null, name: "", id: null });
  receive(store);
  const fetched = [];
  const looked = [];
  api.fetchApi = async (route) => {
    fetched.push(route);
    const size = Number(new URLSearchParams(route.split("?")[1]).get("filename").split(".")[0]);
    return size ? new Response(new Uint8Array(size), { headers: { "content-length": size } }) : new Response("", { status: 404 });
  };
  const looks = {
    pictureLook: async (blob) => (looked.push(blob.size), { blob, width: 8, height: 8, animation: null }),
    videoLook: async (video) => ({ blob: new Blob(["still"]), video, width: 8, height: 8, animation: null }),
  };
  return { store, fetched, looked, watching: new Watching(store), results: new Results(store, prompts, looks) };
}

const executed = (node, ...names) =>
  tell("executed", { prompt_id: "p", node, output: { images: names.map((filename) => ({ filename, subfolder: "a b", type: "temp" })) } });
const sizes = ({ results }) => results.map(({ blob }) => blob.size);

test("what comes of a prompt belongs to the samplers that lead to it, and is fetched once, when asked for", async () => {
  const { store, fetched, results } = opened();
  previews(2, { run: "a", node: "10" });
  endRun("a");
  executed("40", "1.png");
  executed("30", "2.png");
  previews(2, { run: "b", node: "11" });
  executed("31", "3.png");
  assert.deepEqual(fetched, []);
  for (const run of [...store.runs, ...store.runs]) await results.load(run);
  assert.deepEqual(store.runs.map(sizes), [[2, 3], [3]]);
  assert.deepEqual(fetched, ["2", "3"].map((name) => `/view?filename=${name}.png&subfolder=a+b&type=temp`));
  assert.deepEqual([store.frameCount, store.bytes], [7, 48]);
  store.end(() => true);
  store.clear();
  assert.deepEqual([store.frameCount, store.bytes], [0, 0]);
});

test("where the prompt does not say which sampler it was, it was the last one", async () => {
  const { store, fetched, results } = opened({ nodes: null });
  previews(2, { run: "a", node: "10" });
  previews(2, { run: "b", node: "11" });
  tell("executed", { prompt_id: "p", node: "31", output: { gifs: [{ filename: "3.webm" }], text: ["no file"], images: null } });
  for (const run of store.runs) await results.load(run);
  assert.deepEqual(store.runs.map(({ results }) => results.map(({ video }) => video)), [[], ["/api/view?filename=3.webm&subfolder=&type=output"]]);
  assert.deepEqual(fetched, []); // the browser streams it
});

test("files that cannot be had, or that are too large together, are left out", async () => {
  const { store, looked, results } = opened();
  previews(2, { run: "b", node: "11" });
  executed("31", "gone.png", "1001.png", "600.png", "500.png", "300.png");
  await results.load(store.runs[0]);
  assert.deepEqual(sizes(store.runs[0]), [600, 300]); // of the 1000 bytes that a quarter of the memory is
  assert.ok(!looked.includes(1001)); // it was not even read
  executed("31", ...Array(20).fill("1.png"));
  await results.load(store.runs[0]);
  assert.equal(store.runs[0].results.length, 8);
});

test("who follows sees a live sampler's pictures, and in the end what came of it; who looks back stays", async () => {
  const { store, watching, results } = opened();
  previews(2, { run: "b", node: "11" });
  executed("31", "5.png", "6.png");
  await results.load(watching.run);
  assert.equal(watching.frame.step, 2);
  preview(3, { run: "b", node: "11" });
  assert.deepEqual([watching.frame.step, watching.frame.outputNode], [3, undefined]);
  endRun("b");
  assert.deepEqual([watching.frame.outputNode, watching.frame.blob.size, watching.isLive], ["31", 5, true]);
  preview(4, { run: "b", node: "11" }); // late
  assert.deepEqual([watching.frame.blob.size, watching.index], [5, 4]);
  watching.scrub(watching.index + 1);
  assert.equal(watching.frame.blob.size, 6);
  watching.scrub(0);
  watching.compare(true);
  watching.goLive();
  assert.deepEqual([watching.against.step, watching.frame.blob.size], [1, 5]);
  store.clear();
  assert.deepEqual([watching.frame, watching.against], [null, null]);
});

test("an animated preview gives way to what came of it", async () => {
  const { watching, results } = opened();
  preview(1, { run: "b", node: "11" });
  preview(1, { run: "b", node: "11", animation: { frames: 4 } });
  executed("31", "5.png");
  assert.equal(watching.playing?.step, 1);
  endRun("b");
  await results.load(watching.run);
  assert.equal(watching.playing, null);
  watching.scrub(0);
  assert.equal(watching.playing?.step, 1);
});
