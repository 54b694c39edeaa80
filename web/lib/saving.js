/** A frame as a PNG file, a run as an animated WebP or a WebM. */

import { stepText } from "./stage.js";
import { t } from "./strings.js";
import { animatedWebp } from "./webp.js";

/** @typedef {import("./store.js").Frame} Frame */

const FRAME_MS = 125;
const LAST_FRAME_MS = 1500;
const QUALITY = 0.92;

/**
 * @param {Frame} frame
 * @param {boolean} burn the step into the picture
 */
export async function saveFrame(frame, burn) {
  const page = await paperFor(frame);
  await page.draw(frame, burn);
  const name = `${stem(frame)}_step${String(frame.step).padStart(3, "0")}.png`;
  download(await encoded(page.canvas, "image/png"), name);
}

/**
 * @param {Frame[]} frames at least one
 * @param {"webp" | "webm"} kind
 * @param {boolean} burn the step into the pictures
 * @param {(done: number) => void} progress
 */
export async function saveAnimation(frames, kind, burn, progress) {
  const newest = frames[frames.length - 1];
  const page = await paperFor(newest);
  const blob =
    kind === "webp"
      ? await makeWebp(page, frames, burn, progress)
      : await makeWebm(page, frames, burn, progress);
  download(blob, `${stem(newest)}_${frames.length}frames.${kind}`);
}

/** @typedef {{ canvas: HTMLCanvasElement, draw: (frame: Frame, burn: boolean) => Promise<void> }} Paper */

/**
 * A canvas of the frame's size, onto which frames of any size are drawn.
 *
 * @param {Frame} frame
 * @returns {Promise<Paper>}
 */
async function paperFor(frame) {
  const first = await createImageBitmap(frame.blob);
  const canvas = document.createElement("canvas");
  canvas.width = first.width;
  canvas.height = first.height;
  first.close();
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  return {
    canvas,
    async draw(shown, burn) {
      const bitmap = await createImageBitmap(shown.blob);
      context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      bitmap.close();
      if (burn) writeStep(context, stepText(shown));
    },
  };
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
 * @param {Paper} page
 * @param {Frame[]} frames
 * @param {boolean} burn
 * @param {(done: number) => void} progress
 */
async function makeWebp(page, frames, burn, progress) {
  const pictures = [];
  for (const [i, frame] of frames.entries()) {
    await page.draw(frame, burn);
    const picture = await encoded(page.canvas, "image/webp");
    if (picture.type !== "image/webp") throw new Error(t("timeline.save.noWebp"));
    pictures.push(new Uint8Array(await picture.arrayBuffer()));
    progress(i + 1);
  }
  const durations = frames.map((_, i) => (i === frames.length - 1 ? LAST_FRAME_MS : FRAME_MS));
  const { width, height } = page.canvas;
  return new Blob([animatedWebp(pictures, durations, width, height)], { type: "image/webp" });
}

/**
 * Recorded in real time, which is the only way that browsers offer.
 *
 * @param {Paper} page
 * @param {Frame[]} frames
 * @param {boolean} burn
 * @param {(done: number) => void} progress
 */
async function makeWebm(page, frames, burn, progress) {
  const stream = page.canvas.captureStream();
  const recorder = new MediaRecorder(stream, { mimeType: "video/webm", videoBitsPerSecond: 8e6 });
  /** @type {Blob[]} */
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve));
  recorder.start();
  for (const [i, frame] of frames.entries()) {
    await page.draw(frame, burn);
    progress(i + 1);
    await pause(i === frames.length - 1 ? LAST_FRAME_MS : FRAME_MS);
  }
  recorder.stop();
  await stopped;
  for (const track of stream.getTracks()) track.stop();
  return new Blob(parts, { type: "video/webm" });
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
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

/** @param {Frame} frame */
function stem(frame) {
  const title = frame.run.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `sidestream_${title || "run"}`;
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
  // The browser has taken the file when the click's task is over.
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
