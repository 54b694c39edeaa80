import assert from "node:assert/strict";
import { test } from "node:test";

import { curvesOf, pointAt, settledAfter, topOf } from "../../../web/lib/data/curves.js";

/** A run with a frame for each label, which has its step. */
function runOf(labels, { totalSteps = 20 } = {}) {
  const run = { stage: 1, begins: { 1: 0 }, totalSteps, step: totalSteps, frames: [], results: [] };
  run.frames = labels.map((label) => ({ run, stage: 1, totalSteps, step: label?.step ?? 1, label }));
  return run;
}

/** As [step, first step it speaks for, value] each. */
function told(points) {
  return points.map(({ step, from, value }) => [step, from, Number(value.toFixed(4))]);
}

test("a frame speaks for the steps since the one before", () => {
  const { change, sigma, time } = curvesOf(
    runOf([
      { step: 1, elapsed_ms: 300, sigma: 14.6 },
      { step: 2, elapsed_ms: 400, sigma: 9, change: { rms: 0.5, since: 1 } },
      { step: 6, elapsed_ms: 800, sigma: 2, change: { rms: 0.2, since: 2 } },
    ]),
  );
  assert.deepEqual(told(time), [[1, 1, 300], [2, 2, 100], [6, 3, 100]]);
  assert.deepEqual(told(change), [[2, 2, 0.5], [6, 3, 0.05]]);
  assert.deepEqual(told(sigma), [[1, 1, 14.6], [2, 2, 9], [6, 6, 2]]);
  assert.deepEqual([0, 1, 3, 5, 9].map((slot) => pointAt(time, slot)?.step), [1, 2, 6, 6, 6]);
  assert.equal(pointAt(change, 0), null);
});

test("a first frame that is not of the first step speaks for all before it", () => {
  assert.deepEqual(told(curvesOf(runOf([{ step: 4, elapsed_ms: 400 }])).time), [[4, 1, 100]]);
});

test("another sampling of the same node begins anew", () => {
  const run = runOf([{ step: 20, elapsed_ms: 2000 }]);
  Object.assign(run, { stage: 2, begins: { 1: 0, 2: 20 }, totalSteps: 8 });
  const change = { rms: 0.3, since: 1 };
  run.frames.push({ run, stage: 2, totalSteps: 8, step: 2, label: { elapsed_ms: 50, change } });
  const curves = curvesOf(run);
  assert.deepEqual(told(curves.time), [[20, 1, 100], [2, 1, 25]]);
  assert.deepEqual(curves.time.map(({ slot }) => slot), [19, 21]);
});

test("what is not told, by another previewer or an older server, leaves no point", () => {
  assert.deepEqual(curvesOf(runOf([null, { step: 2 }])), { change: [], sigma: [], time: [] });
});

/** Points of steps that each change that much, from step 2 on. */
function changing(...shares) {
  return shares.map((value, i) => ({ slot: i + 1, step: i + 2, from: i + 2, stage: 1, value }));
}

test("the picture has settled when all later changes together are small", () => {
  assert.equal(settledAfter(changing(0.5, 0.2, 0.04, 0.02, 0.01, 0.01)), 4); // 0.02 + 0.01 + 0.01 are left
  assert.equal(settledAfter(changing(0.5, 0.2, 0.1, 0.06)), 5); // never
  assert.equal(settledAfter(changing(0.02, 0.01)), 1); // from the first one on
  assert.equal(settledAfter([]), null);
  const skipping = [{ slot: 9, step: 10, from: 2, stage: 1, value: 0.1 }, { slot: 19, step: 20, from: 16, stage: 1, value: 0.003 }];
  assert.equal(settledAfter(skipping), 10); // 0.003 a step, in ten steps
});

test("a slow first step does not press the others to the ground", () => {
  const points = [[1, 9000], [2, 210], [3, 200]].map(([step, value]) => ({ slot: step - 1, step, from: step, stage: 1, value }));
  assert.equal(topOf(points, "time"), 210);
  assert.equal(topOf(points.slice(0, 1), "time"), 9000);
  assert.equal(topOf(points, "sigma"), 9000);
});
