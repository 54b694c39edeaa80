import assert from "node:assert/strict";
import { test } from "node:test";

import { AnimationDecoder } from "../../../web/lib/media/animation_decoder.js";

const drawn = [];
globalThis.OffscreenCanvas = class {
  getContext() {
    return { clearRect: (...box) => drawn.push(["clear", ...box]), drawImage: (picture) => drawn.push(picture.number) };
  }
};
globalThis.createImageBitmap = async (blob) => ({ number: Number(await blob.text()), close() {} });

const decoderOf = (frames) =>
  new AnimationDecoder({
    width: 8,
    height: 8,
    frames: frames.map((frame, i) => ({ x: 0, y: 0, width: 8, height: 8, duration: 50, blend: true, whole: i === 0, file: String(i), ...frame })),
  });

test("frames have their time, those that ask for none a tenth of a second", () => {
  const decoder = decoderOf([{ duration: 60 }, { duration: 0 }, { duration: 11 }]);
  assert.deepEqual([decoder.count, decoder.duration], [3, 171]);
  assert.deepEqual([0, 59, 60, 159, 160, 170, 171].map((ms) => decoder.indexAt(ms)), [0, 0, 1, 1, 2, 2, 2]);
  assert.deepEqual([0, 1, 2].map((i) => [decoder.startOf(i), decoder.endOf(i)]), [[0, 60], [60, 160], [160, 171]]);
});

test("a frame is composed from the last whole one, or from the one shown", async () => {
  const decoder = decoderOf([{}, {}, { whole: true }, {}, { dispose: true }, { blend: false }]);
  const composed = async (index) => {
    drawn.length = 0;
    await decoder.compose(index);
    return drawn.filter((each) => typeof each === "number");
  };
  assert.deepEqual(await composed(3), [2, 3]);
  assert.deepEqual(await composed(3), []);
  assert.deepEqual(await composed(5), [4, 5]);
  assert.deepEqual(drawn, [4, ["clear", 0, 0, 8, 8], ["clear", 0, 0, 8, 8], 5]); // disposed, and not blended
  assert.deepEqual(await composed(1), [0, 1]);
});
