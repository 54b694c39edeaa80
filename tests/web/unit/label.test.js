import assert from "node:assert/strict";
import { test } from "node:test";

import { labelledPng, xmpOf } from "../../../web/lib/media/label.js";

const LABEL = { step: 7, run: '<a & "b"> é 😀 \0' };
const text = (bytes) => String.fromCharCode(...bytes);
const read = (bytes) => JSON.parse(text(bytes).match(/\{"sidestream":.*\}\}/)[0]);

test("a PNG has its comment behind the header, with the right checksum", () => {
  const file = Uint8Array.from({ length: 40 }, (_, i) => i);
  const made = labelledPng(file, LABEL);
  assert.deepEqual([...made.slice(0, 33), ...made.slice(-7)], [...file]);
  assert.deepEqual(read(made), { sidestream: LABEL });
  assert.ok(made.every((byte, i) => byte < 128 || i > made.length - 7 - 5)); // ASCII but for the checksum
  // As zlib has it for the same chunk.
  assert.deepEqual([...labelledPng(file, {}).slice(-11, -7)], [0xb0, 0x3e, 0x24, 0xc2]);
});

test("XMP is escaped", () => {
  const made = text(xmpOf(LABEL));
  assert.match(made, /&#60;a &#38; \\"b\\"&#62;/);
  assert.ok(/^[ -~]*$/.test(made));
});
