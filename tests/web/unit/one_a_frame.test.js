import assert from "node:assert/strict";
import { test } from "node:test";

import { OneAFrame } from "../../../web/lib/media/one_a_frame.js";

/** A window whose animation frames are told by hand, and canvases that count what is drawn. */
function opened() {
  const asked = [];
  const drawn = [];
  globalThis.createImageBitmap = async (blob) => ({ width: 8, height: 8, name: blob.name, close() {} });
  const pictures = new OneAFrame({ requestAnimationFrame: (call) => asked.push(call) }, 4);
  const canvas = (name) => ({ width: 1, height: 1, getContext: () => ({ drawImage: (bitmap) => drawn.push(name + bitmap.name) }) });
  const frame = async () => {
    for (const call of asked.splice(0)) call();
    for (let i = 0; i < 10; i++) await null;
  };
  return { pictures, canvas, frame, drawn, asked };
}

const picture = (name) => ({ blob: { name }, cells: null });

test("thirty pictures take thirty animation frames, and then none is asked for", async () => {
  const { pictures, canvas, frame, drawn, asked } = opened();
  const canvases = Array.from({ length: 30 }, (_, i) => canvas(`${i}:`));
  for (const one of canvases) pictures.show(one, picture("a"));
  for (let i = 1; i <= 30; i++) {
    await frame();
    assert.equal(drawn.length, i);
  }
  await frame();
  assert.deepEqual([drawn.length, asked.length, canvases[0].width], [30, 0, 4]);
});

test("of many for one canvas the newest is drawn, and no other one waits for long", async () => {
  const { pictures, canvas, frame, drawn } = opened();
  const [live, other, gone] = ["live", "other", "gone"].map(canvas);
  for (const name of ["1", "2", "3"]) pictures.show(live, picture(name));
  pictures.show(other, picture(""));
  pictures.show(gone, picture(""));
  pictures.show(gone, null);
  for (const name of ["4", "5", "6"]) {
    await frame();
    pictures.show(live, picture(name));
  }
  for (let i = 0; i < 3; i++) await frame();
  assert.deepEqual(drawn, ["live3", "other", "live5", "live6"]);
});
