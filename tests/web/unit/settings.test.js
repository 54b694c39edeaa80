import assert from "node:assert/strict";
import { test } from "node:test";

import { Settings, allows, labelOf, optionText, unitText } from "../../../web/lib/data/settings.js";
import { answers, app, stored } from "./comfy.js";

const NUMBER = { type: "number", default: 100, min: 0, max: 60000, unit: "ms", label: "Throttle", tooltip: "" };
const CHOICE = { type: "choice", default: "jpeg", options: ["jpeg", "png"], words: { jpeg: "JPEG" }, label: "Format", tooltip: "" };

test("a value is a whole number in its range, or one of the choices", () => {
  for (const value of [0, 100, 60000]) assert.ok(allows(NUMBER, value));
  for (const value of [-1, 60001, 0.5, NaN, "100", null]) assert.ok(!allows(NUMBER, value));
  const size = { ...NUMBER, least: 64 }; // or 0, which has a meaning of its own
  assert.deepEqual([0, 1, 63, 64].map((value) => allows(size, value)), [true, false, false, true]);
  assert.ok(allows(CHOICE, "png"));
  for (const value of ["gif", 0, undefined]) assert.ok(!allows(CHOICE, value));
});

test("what is stored counts where it is allowed, and a warning says once where it is not", async (context) => {
  const warn = context.mock.method(console, "warn", () => {});
  answers["/sidestream/settings"] = { fields: { throttle_ms: NUMBER, format: CHOICE } };
  const settings = new Settings();
  assert.equal(settings.get("throttle_ms"), undefined); // nobody knows it yet
  await settings.load();
  assert.deepEqual(settings.values(), { throttle_ms: 100, format: "jpeg" });
  settings.set("throttle_ms", 250);
  stored["SideStream.format"] = "gif";
  for (let i = 0; i < 3; i++) assert.deepEqual(settings.values(), { throttle_ms: 250, format: "jpeg" });
  assert.equal(warn.mock.callCount(), 1);
  assert.deepEqual(settings.limits(), { frames: 600, bytes: 128 * 2 ** 20 });
});

test("the dialog lists the server's settings and the page's own", () => {
  const settings = Object.assign(new Settings(), { fields: { throttle_ms: NUMBER, format: CHOICE } });
  const [preset, throttle, format, ...own] = settings.entries(() => "a select");
  assert.deepEqual([preset.id, preset.type()], ["SideStream.preset", "a select"]);
  assert.deepEqual([throttle.id, throttle.name, throttle.attrs.max], ["SideStream.throttle_ms", "Throttle (ms)", 60000]);
  assert.deepEqual([format.type, format.options, format.defaultValue], ["combo", [{ text: "JPEG", value: "jpeg" }, { text: "png", value: "png" }], "jpeg"]);
  assert.deepEqual(own.map(({ id }) => id), ["SideStream.keep_frames", "SideStream.keep_megabytes"]);
  assert.equal(labelOf("throttle_ms", { ...NUMBER, label: "Throttle (ms)" }), "Throttle");
  assert.equal(optionText("device", CHOICE, "1"), "GPU 1");
  const size = { ...NUMBER, unit: "px", zero: "asComfyUI" };
  assert.deepEqual([unitText(NUMBER, 0), unitText(size, 64), unitText(size, 0)], ["ms", "px", "liveSettings.asComfyUI"]);
});

test("a value that the server does not take is said, once", async (context) => {
  const { extensionManager } = app;
  const said = [];
  extensionManager.toast = { add: ({ severity }) => said.push(severity) };
  context.mock.method(extensionManager.setting, "set", () => Promise.reject(new Error("offline")));
  await new Settings().set("budget", 7);
  assert.deepEqual(said, ["error"]);
  delete extensionManager.toast;
});
