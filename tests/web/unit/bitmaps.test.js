import assert from "node:assert/strict";
import { test } from "node:test";

import { withBitmap } from "../../../web/lib/media/bitmaps.js";

/** Pictures of that many pixels on a side, and the sides of those whose bitmaps are in memory. */
function opened() {
  const inMemory = new Set();
  globalThis.createImageBitmap = async ({ side }) => {
    const bitmap = { width: side, height: side, close: () => inMemory.delete(bitmap) && (bitmap.width = bitmap.height = 0) };
    inMemory.add(bitmap);
    return bitmap;
  };
  return { picture: (side) => ({ blob: { side } }), sides: () => [...inMemory].map(({ width }) => width) };
}

test("the last bitmaps are kept, but for large ones, which would take hundreds of megabytes", async () => {
  const { picture, sides } = opened();
  const pictures = [512, 513, 514, 515, 516, 517, 4096, 518].map(picture);
  const drawn = [];
  for (const one of pictures) await withBitmap(one, ({ width }) => drawn.push(width));
  await withBitmap(pictures.at(-1), ({ width }) => drawn.push(width));
  assert.deepEqual(drawn, [512, 513, 514, 515, 516, 517, 4096, 518, 518]);
  assert.deepEqual(sides(), [513, 514, 515, 516, 517, 518]);
});

test("two who draw the same large picture at once both get it", async () => {
  const { picture, sides } = opened();
  const large = picture(4096);
  const drawn = [];
  const draw = ({ width }) => drawn.push(width);
  assert.deepEqual(await Promise.all([withBitmap(large, draw), withBitmap(large, draw)]), [true, true]);
  assert.deepEqual([drawn, sides()], [[4096, 4096], []]);
});
