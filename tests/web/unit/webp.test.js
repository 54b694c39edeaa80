import assert from "node:assert/strict";
import { test } from "node:test";

import { animatedWebp, unpackedWebp } from "../../../web/lib/media/webp.js";

const NO_XMP = new Uint8Array(0);
const bytes = (text) => [...text].map((character) => character.charCodeAt(0));
const chunk = (name, content) => {
  const padding = content.length % 2 ? [0] : [];
  return [...bytes(name), content.length, 0, 0, 0, ...content, ...padding];
};
const file = (...chunks) => Uint8Array.from(chunk("RIFF", [...bytes("WEBP"), ...chunks.flat()]));

test("still pictures become an animation and are themselves again", () => {
  const stills = [file(chunk("VP8 ", [1, 2, 3])), file(chunk("VP8 ", [4, 5, 6, 7]))];
  const { width, height, frames } = unpackedWebp(animatedWebp(stills, [125, 70_000], 300, 40, NO_XMP));
  assert.deepEqual([width, height], [300, 40]);
  assert.deepEqual(frames.map(({ duration }) => duration), [125, 70_000]);
  assert.deepEqual(frames.map((frame) => frame.file), stills);
  for (const { x, y, whole, blend, dispose } of frames) {
    assert.deepEqual([x, y, whole, blend, dispose], [0, 0, true, false, false]);
  }
});

test("what is not of the picture is left out, and transparency is said", () => {
  const still = file(chunk("VP8X", new Array(10).fill(0)), chunk("ICCP", [9]), chunk("ALPH", [1]), chunk("VP8 ", [2, 3]));
  const animation = animatedWebp([still], [100], 8, 8, NO_XMP);
  assert.equal(animation[20], 0x16); // animation, metadata, alpha
  const [frame] = unpackedWebp(animation).frames;
  assert.deepEqual([...frame.file].filter((value) => value === 9), []);
  assert.equal(String.fromCharCode(...frame.file.slice(12, 16)), "VP8X");
});

test("a frame that is a part has its place, and shows what was there before", () => {
  const animation = animatedWebp([file(chunk("VP8L", [1, 2]))], [100], 64, 32, NO_XMP);
  const at = animation.length - (16 + 8 + 2) - 8; // the frame's header
  animation.set([3, 0, 0, 2, 0, 0, 9, 0, 0, 4, 0, 0], at);
  animation[at + 15] = 0x01;
  const { x, y, width, height, whole, blend, dispose } = unpackedWebp(animation).frames[0];
  assert.deepEqual([x, y, width, height], [6, 4, 10, 5]);
  assert.deepEqual([whole, blend, dispose], [false, true, true]);
});

test("any other file is refused", () => {
  for (const other of [file(chunk("VP8 ", [1, 2])), new Uint8Array(0), Uint8Array.from(bytes("no picture at all"))]) {
    assert.throws(() => unpackedWebp(other), TypeError);
  }
});
