import assert from "node:assert/strict";
import { test } from "node:test";

import { filled } from "../../../web/lib/host/texts.js";

test("from right to left a value has a direction of its own, and the space before it stays in the text", () => {
  const values = { key: " (Shift + L)", none: "", count: 3 };
  assert.equal(filled("a<key>. <count><none>", values, "ltr"), "a (Shift + L). 3");
  assert.equal(filled("א<key>. <count><none>", values, "rtl"), "א \u2068(Shift + L)\u2069. \u20683\u2069");
});
