/**
 * A picture as a PNG file, an animation and a sound as they came, a run's stills as an animated WebP or a WebM. All
 * but the WebM say in a comment what they show.
 */

import { partOf } from "../data/cells.js";
import { stepText, t } from "../host/strings.js";
import { labelledPng, xmpOf } from "./label.js";
import { animatedWebp } from "./webp.js";

/** @typedef {import("./player.js").Player} Player */
/** @typedef {import("../data/store.js").Animation} Animation */
/** @typedef {import("../data/store.js").Frame} Frame */

const FRAME_MS = 125;
const LAST_FRAME_MS = 1500;
const QUALITY = 0.92;

/**
 * @typedef {object} Wishes
 * @property {boolean} burn write the step into the pictures
 * @property {number | null} image of the batch, to be saved alone
 */

/**
 * @param {Frame} frame
 * @param {Wishes} wishes
 */
export async function saveFrame(frame, wishes) {
  const sheet = await sheetFor(frame, wishes);
  await sheet.draw(frame);
  await savePng(sheet.canvas, labelOf(frame, wishes, sheet.canvas), `${stemOf(frame, wishes)}_${stepName(frame)}`);
}

/**
 * What the player shows.
 *
 * @param {Player} player
 * @param {Wishes} wishes
 */
export async function savePlayed(player, wishes) {
  const { shown, index } = player;
  if (!shown) return;
  const { canvas, context } = emptyCanvas(player.canvas.width, player.canvas.height);
  context.drawImage(player.canvas, 0, 0);
  if (wishes.burn) writeStep(context, stepText(shown));
  const label = { ...labelOf(shown, wishes, canvas), frame: index + 1 };
  await savePng(canvas, label, `${stemOf(shown, wishes)}_${stepName(shown)}_frame${padded(index + 1)}`);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {object} label
 * @param {string} stem of its file's name
 */
async function savePng(canvas, label, stem) {
  const file = labelledPng(await bytesOf(await encoded(canvas, "image/png")), label);
  download(new Blob([file], { type: "image/png" }), `${stem}.png`);
}

/**
 * As it came: with all images of its batch, and nothing written into it.
 *
 * @param {Animation} animation
 * @param {Wishes} wishes
 */
export function saveAnimation(animation, wishes) {
  download(animation.blob, `${stemOf(animation, { ...wishes, burn: false, image: null })}_${stepName(animation)}.webp`);
}

/**
 * @param {import("../data/store.js").Sound} sound
 * @param {Blob | null} file
 * @param {Wishes} wishes
 */
export function saveSound(sound, file, wishes) {
  if (!file) throw new Error(t("sound.gone"));
  download(file, `${stemOf(sound, { ...wishes, image: null })}_${stepName(sound)}.wav`);
}

/**
 * @param {Frame[]} frames at least one
 * @param {"webp" | "webm"} kind
 * @param {Wishes} wishes
 * @param {(done: number) => void} progress
 */
export async function saveRun(frames, kind, wishes, progress) {
  const newest = frames.findLast((frame) => !frame.outputNode) ?? frames[0]; // results may be much larger
  const sheet = await sheetFor(newest, wishes);
  const label = { ...originOf(newest), steps: frames.map(({ step }) => step) };
  const making = kind === "webp" ? makeWebp(sheet, frames, label, progress) : makeWebm(sheet, frames, progress);
  download(await making, `${stemOf(newest, wishes)}_${frames.length}frames.${kind}`);
}

/** @typedef {{ canvas: HTMLCanvasElement, draw: (frame: Frame) => Promise<void> }} Sheet */

/**
 * A canvas of the frame's size, onto which frames of any size are drawn.
 *
 * @param {Frame} frame
 * @param {Wishes} wishes
 * @returns {Promise<Sheet>}
 */
async function sheetFor(frame, { burn, image }) {
  const first = await createImageBitmap(frame.blob);
  const { width, height } = partOf(frame.cells, image, first.width, first.height);
  first.close();
  const { canvas, context } = emptyCanvas(width, height);
  return {
    canvas,
    async draw(shown) {
      const bitmap = await createImageBitmap(shown.blob);
      const part = partOf(shown.cells, image, bitmap.width, bitmap.height);
      const scale = Math.min(width / part.width, height / part.height);
      const [w, h] = [Math.round(part.width * scale), Math.round(part.height * scale)];
      const [x, y] = [(width - w) >> 1, (height - h) >> 1];
      context.clearRect(0, 0, width, height);
      context.drawImage(bitmap, part.x, part.y, part.width, part.height, x, y, w, h);
      bitmap.close();
      if (burn) writeStep(context, stepText(shown));
    },
  };
}

/**
 * @param {number} width
 * @param {number} height
 */
function emptyCanvas(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return { canvas, context: /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")) };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 */
function writeStep(context, text) {
  const { width, height } = context.canvas;
  const size = Math.max(11, Math.round(Math.min(width, height) / 22));
  context.font = `600 ${size}px sans-serif`;
  const box = context.measureText(text).width + size;
  context.fillStyle = "rgb(0 0 0 / 0.6)";
  context.fillRect(0, height - size * 1.8, box, size * 1.8);
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, size / 2, height - size * 0.9);
}

/**
 * @param {Sheet} sheet
 * @param {Frame[]} frames
 * @param {object} label
 * @param {(done: number) => void} progress
 */
async function makeWebp(sheet, frames, label, progress) {
  const pictures = [];
  for (const [i, frame] of frames.entries()) {
    await sheet.draw(frame);
    const picture = await encoded(sheet.canvas, "image/webp");
    if (picture.type !== "image/webp") throw new Error(t("timeline.save.noWebp"));
    pictures.push(await bytesOf(picture));
    progress(i + 1);
  }
  const durations = frames.map((_, i) => (i === frames.length - 1 ? LAST_FRAME_MS : FRAME_MS));
  const { width, height } = sheet.canvas;
  return new Blob([animatedWebp(pictures, durations, width, height, xmpOf(label))], { type: "image/webp" });
}

/**
 * Recorded in real time: browsers offer no other way.
 *
 * @param {Sheet} sheet
 * @param {Frame[]} frames
 * @param {(done: number) => void} progress
 */
async function makeWebm(sheet, frames, progress) {
  const stream = sheet.canvas.captureStream();
  const recorder = new MediaRecorder(stream, { mimeType: "video/webm", videoBitsPerSecond: 8e6 });
  /** @type {Blob[]} */
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve));
  recorder.start();
  for (const [i, frame] of frames.entries()) {
    progress(i + 1);
    // A picture is recorded only when it is drawn again: otherwise the last one would end at once.
    for (let left = i === frames.length - 1 ? LAST_FRAME_MS : FRAME_MS; left > 0; left -= FRAME_MS) {
      await sheet.draw(frame);
      await new Promise((resolve) => setTimeout(resolve, FRAME_MS));
    }
  }
  recorder.stop();
  await stopped;
  for (const track of stream.getTracks()) track.stop();
  return new Blob(parts, { type: "video/webm" });
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} type
 * @returns {Promise<Blob>}
 */
function encoded(canvas, type) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(type))), type, QUALITY);
  });
}

/** @param {Blob} blob */
async function bytesOf(blob) {
  return new Uint8Array(await blob.arrayBuffer());
}

/**
 * The label of a saved picture: the server's, as far as it holds for what is saved.
 *
 * @param {import("../data/store.js").Picture} picture
 * @param {Wishes} wishes
 * @param {HTMLCanvasElement} canvas
 */
function labelOf(picture, wishes, { width, height }) {
  const { label, step, totalSteps, cells } = picture;
  const isAlone = wishes.image !== null && cells?.images.includes(wishes.image);
  const grid = isAlone ? { columns: 1, rows: 1, images: [wishes.image] } : label?.grid;
  return { ...label, ...originOf(picture), step, total_steps: totalSteps, width, height, grid };
}

/**
 * What a run's pictures have in common in their labels.
 *
 * @param {import("../data/store.js").Picture} picture
 */
function originOf({ run, label }) {
  const seed = run.origin.seed ?? label?.seed;
  // Numbers above 2 ** 53 are not read exactly: better none than a wrong one.
  const exact = Number.isSafeInteger(seed) ? seed : undefined;
  return { prompt_id: run.promptId, node_id: run.nodeId, run: run.foreign ? undefined : run.id, seed: exact };
}

/**
 * What sets a file apart from those of other runs: workflow, sampler, seed, and when the run began.
 *
 * @param {Pick<import("../data/store.js").Picture, "run" | "cells" | "label">} picture
 * @param {Wishes} wishes
 */
function stemOf({ run, cells, label }, { image, burn }) {
  const { workflow } = run.origin;
  const seed = run.origin.seed ?? label?.seed ?? null;
  const alone = image !== null && cells?.images.includes(image) ? `image${image + 1}` : "";
  const parts = ["sidestream", plain(workflow), plain(run.title) || "run", seed === null ? "" : `seed${seed}`];
  return [...parts, timeName(run.startedAt), alone, burn ? "labelled" : ""].filter(Boolean).join("_");
}

/** @param {string} text */
function plain(text) {
  return text.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
}

/** @param {Date} time as year, month and day, and the time of day to the millisecond */
function timeName(time) {
  const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000).toISOString();
  return local.replace(/[-:.Z]/g, "").replace("T", "-");
}

/** @param {Pick<import("../data/store.js").Picture, "step" | "outputNode">} picture */
function stepName(picture) {
  return picture.outputNode ? "result" : `step${padded(picture.step)}`;
}

/** @param {number} number */
function padded(number) {
  return String(number).padStart(3, "0");
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // By then the browser has taken the file.
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
