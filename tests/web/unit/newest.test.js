import assert from "node:assert/strict";
import { test } from "node:test";

import { newestOnly } from "../../../web/lib/media/newest.js";

test("one at a time, the newest only, and the last one always", async () => {
  const done = [];
  const ends = [];
  const next = newestOnly((item) => new Promise((end) => (done.push(item), ends.push(end))));
  for (const item of [1, 2, 3]) next(item);
  assert.deepEqual(done, [1]);
  ends.shift()();
  await new Promise(setImmediate);
  assert.deepEqual(done, [1, 3]);
  ends.shift()();
  await new Promise(setImmediate);
  assert.deepEqual(done, [1, 3]);
  next(undefined); // idle again
  assert.deepEqual(done, [1, 3, undefined]);
});
