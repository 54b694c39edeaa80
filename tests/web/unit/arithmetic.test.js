import assert from "node:assert/strict";
import { test } from "node:test";

import { partOf } from "../../../web/lib/data/cells.js";
import { Rates, rateOf } from "../../../web/lib/data/rates.js";
import { spread } from "../../../web/lib/view/thumbnail_strip.js";

test("an image of a batch is in its cell", () => {
  const cells = { columns: 3, rows: 2, images: [0, 4, 5, 8, 9] };
  assert.deepEqual(partOf(cells, 8, 97, 64), { x: 0, y: 32, width: 32, height: 32 });
  assert.deepEqual(partOf(cells, 5, 97, 64), { x: 64, y: 0, width: 32, height: 32 });
  for (const [of, image] of [[cells, 7], [cells, null], [null, 0]]) {
    assert.deepEqual(partOf(of, image, 97, 64), { x: 0, y: 0, width: 97, height: 64 });
  }
});

test("thumbnails are spread evenly, with the first and the last", () => {
  const frames = Array.from({ length: 11 }, (_, i) => i);
  assert.deepEqual(spread(frames, 3), [0, 5, 10]);
  assert.deepEqual(spread(frames, 1), [10]);
  assert.deepEqual(spread(frames, 99), frames);
  assert.deepEqual(spread([], 4), []);
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
