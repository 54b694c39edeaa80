import assert from "node:assert/strict";
import { test } from "node:test";

import { OWN, PresetChoice } from "../../../web/lib/data/presets.js";

const PRESETS = { light: { throttle_ms: 500, budget: 2 }, balanced: { throttle_ms: 100, budget: 5 } };

/** What asks for values that lie in `values`. */
function of(values) {
  return (name) => ({ quality: 85, ...values })[name];
}

test("which preset is chosen follows from the values, and any others are the user's own", () => {
  const choice = new PresetChoice(PRESETS);
  assert.deepEqual(choice.names, ["light", "balanced", OWN]);
  assert.equal(choice.of(of({ ...PRESETS.light, quality: 1 })), "light");
  assert.equal(choice.of(of(PRESETS.balanced)), "balanced");
  assert.equal(choice.own, null);
  assert.equal(choice.of(of({ throttle_ms: 100, budget: 6 })), OWN);
  assert.deepEqual(choice.own, { throttle_ms: 100, budget: 6 });
});

test("only what differs is changed, and one can go back to one's own values", () => {
  const choice = new PresetChoice(PRESETS);
  const own = { throttle_ms: 100, budget: 6 };
  choice.of(of(own));
  assert.deepEqual(choice.changes("balanced", of(own)), { budget: 5 });
  assert.equal(choice.of(of(PRESETS.light)), "light");
  assert.deepEqual(choice.changes(OWN, of(PRESETS.light)), own);
  assert.deepEqual(new PresetChoice(PRESETS).changes(OWN, of(own)), {});
});

test("a server that tells of no presets has only the user's own values", () => {
  const choice = new PresetChoice({});
  assert.deepEqual([choice.names, choice.of(of({}))], [[OWN], OWN]);
});
