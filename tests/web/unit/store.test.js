import assert from "node:assert/strict";
import { test } from "node:test";

import { FrameStore, isStandIn, newestAnimation } from "../../../web/lib/data/store.js";
import { Watching } from "../../../web/lib/data/watching.js";
import { receive } from "../../../web/lib/data/wire.js";
import { arrive, endRun, message, preview, previews, tell } from "./comfy.js";

/** A store that hears the server, and what is watched of it. */
function opened(limits = { frames: 600, bytes: 2 ** 20 }) {
  const store = new FrameStore(() => limits);
  receive(store);
  const watching = new Watching(store);
  return { store, watching, seen: () => watching.run?.id };
}

test("frames are bounded by count and by bytes, the oldest go first", () => {
  const limits = { frames: 12, bytes: 1000 };
  const { store } = opened(limits);
  previews(9, { run: "first", prompt: "p1" });
  endRun("first");
  previews(8, { run: "second", prompt: "p2" });
  assert.deepEqual([store.frameCount, store.bytes], [12, 120]);
  assert.deepEqual(store.runs.map(({ frames }) => frames.length), [4, 8]);
  limits.bytes = 55;
  preview(9, { run: "second", prompt: "p2" });
  assert.deepEqual([store.frameCount, store.bytes], [5, 50]);
  assert.deepEqual(store.runs.map(({ frames }) => frames.length), [1, 4]); // the end of a run goes last
  limits.bytes = 15;
  preview(10, { run: "second", prompt: "p2" });
  assert.deepEqual(store.runs.map(({ id }) => id), ["second"]);
});

/** A run that is over, of one frame and one result of those sizes. */
function pastRun(store, id, { frame = 10, result = 0 } = {}) {
  preview(1, { run: id, prompt: id, size: frame });
  endRun(id);
  const run = store.runs.find((one) => one.id === id);
  const about = { seq: 1, stage: 1, step: 1, totalSteps: 20, outputNode: "9", animation: null };
  if (result) store.addResult(run, { ...about, blob: new Blob([new Uint8Array(result)]) });
  return run;
}

test("when memory is short results shrink to their small copies before a run goes, starred ones last", () => {
  const limits = { frames: 600, bytes: 2500 };
  const { store } = opened(limits);
  for (const id of ["a", "b", "c"]) {
    const run = pastRun(store, id, { result: 1000 - (id === "c" ? 300 : 0) });
    run.results[0].small = { blob: new Blob([new Uint8Array(100)]), width: 5, height: 4 };
  }
  const sizes = () => store.runs.map(({ id, results }) => id + results[0].blob.size);
  assert.deepEqual(sizes(), ["a100", "b1000", "c700"]);
  assert.deepEqual([store.runs[0].results[0].width, store.bytes], [5, 1830]);
  limits.bytes = 400;
  store.star(store.runs[0], true);
  pastRun(store, "d");
  assert.deepEqual(store.runs.map(({ id }) => id), ["a", "b", "c", "d"]);
  limits.bytes = 200; // of which half is for the earlier ones
  pastRun(store, "e");
  assert.deepEqual(store.runs.map(({ id }) => id), ["a", "d", "e"]);
  assert.equal(store.bytes, 130);
});

test("of several results the one that the run ends on is left when memory is short", () => {
  const { store } = opened({ frames: 600, bytes: 150 });
  const run = pastRun(store, "a", { result: 50 });
  store.addResult(run, { ...run.results[0], seq: 2 });
  pastRun(store, "b", { frame: 60 });
  assert.deepEqual(store.runs.map(({ id, results }) => id + results.map(({ seq }) => seq)), ["a1", "b"]);
});

test("runs are bounded by count, starred ones go last", () => {
  const { store } = opened();
  store.star(pastRun(store, "r0"), true);
  for (let i = 1; i <= 200; i++) pastRun(store, `r${i}`);
  assert.equal(store.runs.length, 200);
  assert.deepEqual(store.runs.slice(0, 2).map(({ id }) => id), ["r0", "r2"]);
});

test("a run that was taken out is put back in its place, with all that it weighs", () => {
  const { store, watching } = opened();
  for (const id of ["a", "b", "c"]) pastRun(store, id, { result: 50 }).startedAt = new Date(id.charCodeAt(0));
  const before = [store.bytes, store.frameCount];
  const [, run] = store.runs;
  watching.choose(run);
  store.remove(run);
  assert.deepEqual([store.bytes, store.frameCount, watching.run.id], [120, 4, "c"]);
  store.restore(run);
  store.restore(run);
  assert.deepEqual(store.runs.map(({ id }) => id), ["a", "b", "c"]);
  assert.deepEqual([store.bytes, store.frameCount], before);
});

test("what is fetched for a run that was taken out meanwhile weighs once, when it is put back", () => {
  const { store } = opened();
  const run = pastRun(store, "a");
  tell("sidestream.sound", { run: "a", prompt_id: "a", node_id: "10", id: "s", step: 1, total_steps: 20, seconds: 1, of_seconds: 1 });
  const [sound] = run.sounds;
  store.remove(run);
  store.addResult(run, { seq: 1, stage: 1, step: 1, totalSteps: 20, outputNode: "9", animation: null, blob: new Blob(["four"]) });
  store.keepSound(sound, new Blob(["sound"]));
  assert.deepEqual([store.bytes, store.frameCount], [0, 0]);
  store.restore(run);
  assert.deepEqual([store.bytes, store.frameCount, run.results.length], [19, 2, 1]);
  store.remove(run);
  assert.deepEqual([store.bytes, store.frameCount, run.bytes], [0, 0, 0]);
});

test("of two runs the same steps are compared, or their results", () => {
  const { store, watching } = opened();
  previews(8, { run: "a", prompt: "pa" });
  endRun("a");
  previews(5, { run: "b", prompt: "pb", first: 2 });
  const [a, b] = store.runs;
  watching.showSheet(true);
  watching.mark(a);
  assert.deepEqual([watching.marked, watching.against, watching.sheet], [a, null, true]);
  watching.mark(b);
  const sides = () => [watching.against, watching.frame].map(({ run, step, outputNode }) => run.id + (outputNode ?? step));
  assert.deepEqual([sides(), watching.sheet, watching.marked], [["a6", "b6"], false, null]);
  preview(7, { run: "b", prompt: "pb" });
  assert.deepEqual(sides(), ["a7", "b7"]); // a run that goes on takes the other one along
  watching.scrub(1);
  assert.deepEqual(sides(), ["a3", "b3"]);
  endRun("b");
  const about = { seq: 1, stage: 1, step: 8, totalSteps: 20, animation: null, blob: new Blob(["x"]) };
  for (const run of [a, b]) store.addResult(run, { ...about, outputNode: `result of ${run.id}` });
  watching.goLive();
  watching.choose(b);
  assert.deepEqual(sides(), ["aresult of a", "bresult of b"]);
  store.remove(a);
  assert.equal(watching.against, null);
});

test("a mark is taken back by a second press, and goes with its run and with the sheet", () => {
  const { store, watching } = opened();
  previews(2);
  endRun();
  const [run] = store.runs;
  watching.showSheet(true);
  for (const end of [() => watching.mark(run), () => watching.showSheet(false), () => store.remove(run)]) {
    watching.mark(run);
    assert.equal(watching.marked, run);
    end();
    assert.equal(watching.marked, null);
  }
});

test("animations count in what is kept", () => {
  const { store, watching } = opened();
  const animation = { frames: 6 };
  preview(1, { size: 10 });
  preview(1, { size: 300, animation });
  assert.equal(store.bytes, 310);
  preview(1, { size: 400, animation }); // takes its place
  assert.equal(store.bytes, 410);
  preview(2, { size: 300, animation }); // has no still: counted once
  assert.equal(store.bytes, 710);
  assert.equal(watching.run.bytes, 710);
  assert.ok(isStandIn(watching.frame));
  assert.equal(newestAnimation(watching.run).step, 2);
  endRun();
  store.clear();
  assert.deepEqual([store.bytes, store.frameCount], [0, 0]);
});

test("a node's samplings are stages of one run", () => {
  const { store } = opened();
  const about = { run: "r", prompt_id: "p", node_id: "10" };
  previews(3);
  endRun();
  assert.ok(store.runs.every((run) => !run.live));
  tell("sidestream.run", { ...about, state: "start", total_steps: 8, stage: 2 });
  assert.deepEqual(store.runs.map((run) => run.live), [true]);
  tell("progress", { node: "10", prompt_id: "p", value: 2, max: 8 });
  const [{ stage, step, totalSteps, frames }] = store.runs;
  assert.deepEqual([stage, step, totalSteps], [2, 2, 8]);
  assert.equal(frames.length, 3);
});

test("the end of a sampling that comes when the next one has begun does not end the run", () => {
  const { store } = opened();
  const told = { run: "r", prompt_id: "p", node_id: "10", total_steps: 4 };
  tell("sidestream.run", { ...told, stage: 1, state: "sampling", can_finish: true });
  tell("sidestream.run", { ...told, stage: 2, state: "sampling", can_finish: true });
  tell("sidestream.run", { ...told, stage: 1, state: "end", dropped: 0, outcomes: {} });
  const [run] = store.runs;
  assert.deepEqual([run.live, run.closed, run.canFinish], [true, false, true]);
  preview(1, { stage: 2 });
  tell("sidestream.run", { ...told, stage: 2, state: "end", dropped: 0, outcomes: {} });
  assert.deepEqual([run.live, run.closed], [false, true]);
});

test("another previewer's pictures are of the step that came with them, and of their prompt", () => {
  const { store } = opened();
  for (const prompt of ["p", "q"]) {
    for (const value of [1, 2, 3]) {
      // The server's order.
      tell("progress_state", { prompt_id: prompt, nodes: { 10: { state: "running", value, max: 3 } } });
      arrive(message({ node_id: "10", prompt_id: prompt }), { node: "10", prompt });
      tell("progress", { node: "10", prompt_id: prompt, value, max: 3 });
    }
    tell("execution_success", { prompt_id: prompt });
  }
  const seen = store.runs.map(({ frames }) => frames.map(({ step, totalSteps }) => `${step}/${totalSteps}`));
  assert.deepEqual(seen, [["1/3", "2/3", "3/3"], ["1/3", "2/3", "3/3"]]);
});

test("a node that blocks those behind it ends no prompt", () => {
  const { store } = opened();
  preview(1, { prompt: "p" });
  tell("execution_error", { prompt_id: "p", exception_type: "ExecutionBlocked" });
  assert.equal(store.live, true);
  tell("execution_error", { prompt_id: "p", exception_type: "ValueError" });
  assert.equal(store.live, false);
});

test("a prompt whose id was used before has runs that go on", () => {
  const { store } = opened();
  for (const run of ["first", "second"]) {
    tell("execution_start", { prompt_id: "same" });
    preview(1, { run, prompt: "same" });
    assert.equal(store.live, true);
    tell("execution_success", { prompt_id: "same" });
  }
});

test("a late frame of an earlier stage does not move the run", () => {
  const { store } = opened();
  previews(3);
  tell("sidestream.run", { run: "r", prompt_id: "p", node_id: "10", state: "start", total_steps: 8, stage: 2 });
  preview(1, { stage: 2, total_steps: 8 });
  preview(20, { stage: 1 });
  const [{ step, totalSteps, begins }] = store.runs;
  assert.deepEqual([step, totalSteps, begins], [1, 8, { 1: 0, 2: 20 }]);
});

test("a run's time ends with it, on the store's clock", () => {
  let now = 1000;
  const store = new FrameStore(() => ({ frames: 600, bytes: 2 ** 20 }), () => now);
  receive(store);
  previews(1);
  for (const value of [2, 3]) tell("progress", { node: "10", prompt_id: "p", value, max: (now += 250) && 20 });
  const [run] = store.runs;
  assert.deepEqual([run.begunAt, run.endedAt, run.pace.step], [1000, null, 250]);
  now = 9000;
  tell("execution_success", { prompt_id: "p" });
  now = 9900;
  endRun(); // its last frame was late
  assert.equal(run.endedAt, 9000);
});

test("whether a model is being loaded is known where ComfyUI tells it", () => {
  const { store } = opened();
  const nodeAt = (id, more) => {
    const ids = { node_id: id, prompt_id: "p", display_node_id: id, parent_node_id: null, real_node_id: id };
    return { value: 0, max: 1, state: "running", ...ids, ...more };
  };
  const say = (own, before = { state: "finished" }) =>
    tell("progress_state", { prompt_id: "p", nodes: { 4: nodeAt("4", before), 10: nodeAt("10", own) } });
  say({}); // as all versions before 0.38 do
  assert.ok(!store.loading);
  say({ activity: "loading" });
  assert.ok(store.loading);
  say({}, { state: "finished", activity: "loading" }); // which a node keeps that ends while it loads
  assert.ok(!store.loading);
  say({ activity: "something newer" });
  assert.ok(!store.loading);
  say({ activity: "loading" });
  tell("executing", { node: null });
  assert.ok(!store.loading);
});

test("another previewer's picture that comes when its prompt is over counts once, and goes with its run", () => {
  const { store, watching } = opened();
  tell("execution_success", { prompt_id: "q" });
  for (let i = 0; i < 2; i++) arrive(message(null), { node: "10", prompt: "q" });
  assert.deepEqual([store.frameCount, store.bytes, watching.run?.frames.length], [2, 20, 2]);
  store.clear();
  assert.deepEqual([store.frameCount, store.bytes], [0, 0]);
});

test("late events do no harm", () => {
  const { store } = opened();
  previews(4);
  endRun();
  preview(5);
  assert.ok(!store.live);
  tell("sidestream.run", { run: "never seen", state: "end", outcomes: {} });
  assert.equal(store.frameCount, 5);
});

const OWN = { run: "r", seq: 1, step: 1, total_steps: 20 };
const OTHERS = {
  "no label": message({ node_id: "10", prompt_id: "q" }),
  "the label of another prompt": message({ node_id: "10", prompt_id: "p", sidestream: OWN }),
  "the label of another node": message({ node_id: "11", prompt_id: "q", sidestream: OWN }),
  "no metadata": message(null),
  "too short a message": new ArrayBuffer(3),
  "a message cut off": message({ node_id: "10" }).slice(0, 12),
  "a message of another kind": JSON.stringify({ type: "status" }),
  "no message at hand": undefined,
};
for (const [what, data] of Object.entries(OTHERS)) {
  test(`a picture with ${what} is another previewer's`, () => {
    const { store } = opened();
    preview(1, { run: "before", prompt: "q" }); // which says nothing of what comes next
    tell("progress", { node: "10", prompt_id: "q", value: 3, max: 9 });
    arrive(data, { node: "10", prompt: "q" });
    const { foreign, promptId, step, totalSteps } = store.runs.at(-1);
    assert.deepEqual([foreign, promptId, step, totalSteps], [true, "q", 3, 9]);
    tell("execution_success", { prompt_id: "q" });
    assert.ok(!store.live);
  });
}

test("a new run is followed when the old one is over", () => {
  const { watching, seen } = opened();
  previews(6, { run: "a", prompt: "pa" });
  watching.scrub(1);
  previews(3, { run: "b", prompt: "pb" });
  assert.equal(seen(), "a");
  endRun("a");
  assert.deepEqual([seen(), watching.frame.step], ["b", 3]);
  // Also where it was over before.
  endRun("b");
  watching.scrub(0);
  previews(4, { run: "c", prompt: "pc" });
  assert.deepEqual([seen(), watching.frame.step], ["c", 4]);
});

test("who goes back to an old run while a new one goes on stays there", () => {
  const { store, watching, seen } = opened();
  previews(6, { run: "a", prompt: "pa" });
  endRun("a");
  previews(3, { run: "b", prompt: "pb" });
  watching.choose(store.runs[0]);
  assert.equal(watching.newRun?.id, "b");
  previews(3, { run: "b", prompt: "pb", first: 4 });
  assert.equal(seen(), "a");
  watching.scrub(2);
  previews(3, { run: "b", prompt: "pb", first: 7 });
  assert.equal(seen(), "a");
});

test("who has pinned a sampler stays there", () => {
  const { watching, seen } = opened();
  previews(6, { run: "a", prompt: "pa" });
  watching.pin("10");
  watching.scrub(1);
  endRun("a");
  previews(3, { run: "b", prompt: "pb", node: "11" });
  assert.equal(watching.newRun?.id, "b");
  assert.equal(seen(), "a");
  watching.goToNewRun();
  assert.deepEqual([seen(), watching.frame.step], ["b", 3]);
});

test("a comparison is left alone when a new run begins", () => {
  const { watching, seen } = opened();
  previews(4, { run: "old", prompt: "o" });
  watching.scrub(1);
  watching.compare(true);
  watching.scrub(2);
  endRun("old");
  previews(2, { run: "new", prompt: "n" });
  assert.deepEqual([watching.against.step, watching.frame.step], [2, 3]);
  assert.equal(seen(), "old");
  watching.goToNewRun();
  assert.equal(seen(), "new");
});
