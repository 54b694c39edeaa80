import assert from "node:assert/strict";
import { test } from "node:test";

import { labelledPng, labelledWebm, xmpOf } from "../../../web/lib/media/label.js";

const LABEL = { step: 7, run: '<a & "b"> é 😀 \0' };
const text = (bytes) => String.fromCharCode(...bytes);
const commentIn = (bytes) => JSON.parse(text(bytes).match(/\{"sidestream":.*\}\}/)[0]);

test("a PNG has its comment behind the header, with the right checksum", () => {
  const file = Uint8Array.from({ length: 40 }, (_, i) => i);
  const made = labelledPng(file, LABEL);
  assert.deepEqual([...made.slice(0, 33), ...made.slice(-7)], [...file]);
  assert.deepEqual(commentIn(made), { sidestream: LABEL });
  assert.ok(made.every((byte, i) => byte < 128 || i > made.length - 7 - 5)); // ASCII but for the checksum
  // As zlib has it for the same chunk.
  assert.deepEqual([...labelledPng(file, {}).slice(-11, -7)], [0xb0, 0x3e, 0x24, 0xc2]);
});

test("XMP is escaped", () => {
  const made = text(xmpOf(LABEL));
  assert.match(made, /&#60;a &#38; \\"b\\"&#62;/);
  assert.ok(/^[ -~]*$/.test(made));
});

test("a WebM has its comment before its first pictures; where sizes are said nothing changes", () => {
  const segment = [0x18, 0x53, 0x80, 0x67, 1, ...new Array(7).fill(255)];
  const cluster = [0x1f, 0x43, 0xb6, 0x75, 9];
  const made = labelledWebm(Uint8Array.from([...segment, 1, ...cluster]), LABEL);
  assert.deepEqual([...made.slice(0, 13), ...made.slice(-5)], [...segment, 1, ...cluster]);
  assert.deepEqual(commentIn(made), { sidestream: LABEL });
  const sized = Uint8Array.from([0x18, 0x53, 0x80, 0x67, 0x85, ...cluster]);
  assert.equal(labelledWebm(sized, LABEL), sized);
});
