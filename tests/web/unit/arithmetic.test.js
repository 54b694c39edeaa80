import assert from "node:assert/strict";
import { test } from "node:test";

import { partOf } from "../../../web/lib/data/cells.js";
import { clockText, Pace } from "../../../web/lib/data/pace.js";
import { Rates, rateOf } from "../../../web/lib/data/rates.js";
import { inPlaces, nearest, slotCount, slotOf, slotsReached } from "../../../web/lib/data/slots.js";


test("an image of a batch is in its cell", () => {
  const cells = { columns: 3, rows: 2, images: [0, 4, 5, 8, 9] };
  assert.deepEqual(partOf(cells, 8, 97, 64), { x: 0, y: 32, width: 32, height: 32 });
  assert.deepEqual(partOf(cells, 5, 97, 64), { x: 64, y: 0, width: 32, height: 32 });
  for (const [of, image] of [[cells, 7], [cells, null], [null, 0]]) {
    assert.deepEqual(partOf(of, image, 97, 64), { x: 0, y: 0, width: 97, height: 64 });
  }
});

/** A run with frames of those steps. */
function runOf(steps, { totalSteps = 20, stage = 1, begins = { 1: 0 } } = {}) {
  const run = { stage, begins, totalSteps, step: Math.max(0, ...steps), frames: [], results: [] };
  run.frames = steps.map((step) => ({ run, stage, step, totalSteps }));
  return run;
}

test("a step has the same place on the bar whatever comes before and after it", () => {
  const early = runOf([3]);
  const late = runOf([1, 3, 8, 20]);
  for (const run of [early, late]) assert.equal(slotOf(run.frames.find(({ step }) => step === 3)), 2);
  assert.deepEqual([slotCount(early), slotCount(late)], [20, 20]);
  assert.deepEqual([slotsReached(early), slotsReached(late)], [3, 20]);
  late.results.push({ run: late, outputNode: "9" });
  assert.deepEqual([slotCount(late), slotOf(late.results[0]), slotOf(late.frames[3])], [21, 20, 19]);
  const second = runOf([2], { totalSteps: 8, stage: 2, begins: { 1: 0, 2: 20 } });
  assert.deepEqual([slotCount(second), slotOf(second.frames[0]), slotsReached(second)], [28, 21, 22]);
  const unknown = runOf([0, 0, 0], { totalSteps: 0 }); // another previewer's
  assert.deepEqual([slotCount(unknown), unknown.frames.map(slotOf)], [3, [0, 1, 2]]);
});

test("a place of the bar shows its newest picture, and what is nearest to a step is found", () => {
  const { frames } = runOf([1, 2, 3, 11, 20]);
  const shown = (places) => [...inPlaces(frames, 20, places)].map(([place, { step }]) => [place, step]);
  assert.deepEqual(shown(4), [[0, 3], [2, 11], [3, 20]]);
  assert.deepEqual(shown(20), [[0, 1], [1, 2], [2, 3], [10, 11], [19, 20]]);
  assert.deepEqual([0, 5, 7, 19].map((slot) => nearest(frames, slot)), [0, 2, 3, 4]);
  assert.equal(nearest([], 3), -1);
});

test("a step's time is the median of the last ones, and the rest follows from it", () => {
  const pace = new Pace();
  assert.deepEqual([pace.step, pace.left(20, 0)], [null, null]);
  pace.reach(1, 9000); // after the model was loaded
  assert.equal(pace.step, null);
  pace.reach(2, 9500);
  pace.reach(3, 10_000);
  pace.reach(4, 15_000); // a pause in between
  assert.equal(pace.step, 500);
  assert.equal(pace.left(20, 15_000), 8000);
  assert.equal(pace.left(20, 15_200), 7800);
  assert.equal(pace.left(20, 99_000), 0);
  pace.reach(4, 15_400); // its picture comes later than the step
  pace.reach(6, 16_000);
  assert.equal(pace.step, 500);
  for (let step = 7; step <= 40; step++) pace.reach(step, 16_000 + (step - 6) * 100);
  assert.equal(pace.step, 100); // older ones no longer count
  pace.restart();
  assert.equal(pace.step, null);
});

test("steps that are heard of in one go are no faster for it", () => {
  const pace = new Pace();
  [[1, 1000], [2, 1900], [3, 1901], [4, 1902], [5, 2800], [6, 2801]].forEach(([step, at]) => pace.reach(step, at));
  assert.equal(pace.step, 375); // of 300 and 450 ms
});

test("times are told as a clock does", () => {
  assert.deepEqual([0, 7400, 62_000, 3_723_000].map(clockText), ["0:00", "0:07", "1:02", "1:02:03"]);
});

test("rates are those of the last three seconds, and of each second of a minute", (context) => {
  let now = 10_000;
  context.mock.method(performance, "now", () => now);
  const store = new EventTarget();
  const rates = new Rates(store);
  assert.equal(rates.now(), 0);
  for (let i = 0; i < 21; i++, now += 100) store.dispatchEvent(new Event("frame"));
  now -= 100;
  assert.equal(rates.now(), 10);
  assert.deepEqual(rates.minute().slice(-4), [0, 10, 10, 1]);
  now += 3000;
  assert.equal(rates.now(), 0);
  assert.deepEqual(rates.minute().slice(-4), [1, 0, 0, 0]);
  now += 70_000;
  assert.equal(Math.max(...rates.minute()), 0);
  assert.equal(rateOf([0, 500, 1000].map((arrivedAt) => ({ arrivedAt }))), 2);
  assert.equal(rateOf([{ arrivedAt: 5 }]), 0);
});

test("what sampling started from has the first place, and counts as no step", () => {
  const run = runOf([0, 1, 2, 3]);
  assert.deepEqual([slotCount(run), run.frames.map(slotOf), slotsReached(run)], [21, [0, 1, 2, 3], 4]);
  run.frames.shift(); // it was forgotten
  assert.deepEqual([slotCount(run), run.frames.map(slotOf)], [20, [0, 1, 2]]);
});
