/**
 * Draws pictures into canvases on a thread of their own, so that a page that is busy with a large
 * graph does not hold them up. The page imports this file like every other; there it does nothing.
 */

import { drawPart } from "./bitmaps.js";
import { newestOnly } from "./newest.js";

/**
 * @typedef {object} Wanted
 * @property {Blob} blob
 * @property {import("../data/cells.js").Cells | null} cells
 * @property {number | null} image of the batch, to be shown alone
 * @property {number} number
 */

/** @type {Map<number, (picture: Wanted) => void>} what draws into the canvas of that id */
const drawers = new Map();

/** @type {any} */
const scope = globalThis;

if (typeof scope.WorkerGlobalScope === "function") {
  scope.onmessage = (/** @type {MessageEvent} */ { data: { id, canvas, picture, close } }) => {
    if (canvas) drawers.set(id, newestOnly((wanted) => draw(id, canvas, wanted)));
    if (picture) drawers.get(id)?.(picture);
    if (close) drawers.delete(id);
  };
}

/**
 * @param {number} id
 * @param {OffscreenCanvas} canvas
 * @param {Wanted} wanted
 */
async function draw(id, canvas, { blob, cells, image, number }) {
  try {
    const bitmap = await createImageBitmap(blob);
    drawPart(canvas, bitmap, cells, image);
    bitmap.close();
    const { width, height } = canvas;
    scope.postMessage({ id, number, width, height, at: performance.timeOrigin + performance.now() });
  } catch {
    scope.postMessage({ id, number, failed: true }); // the last picture stays
  }
}
