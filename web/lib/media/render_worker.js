/**
 * Draws pictures into canvases on a thread of their own, so that a page that is busy with a large
 * graph does not hold them up. The page imports this file like every other; there it does nothing.
 */

import { drawPart } from "./bitmaps.js";

/**
 * @typedef {object} Wanted
 * @property {Blob} blob
 * @property {import("../data/cells.js").Cells | null} cells
 * @property {number | null} image of the batch, to be shown alone
 */

/** @type {Map<number, OffscreenCanvas>} */
const canvases = new Map();

/** @type {any} */
const scope = globalThis;

if (typeof scope.WorkerGlobalScope === "function") {
  scope.onmessage = async (/** @type {MessageEvent} */ { data }) => {
    const { id, canvas, picture, close } = data;
    if (canvas) canvases.set(id, canvas);
    if (close) canvases.delete(id);
    if (picture) scope.postMessage({ id, drawing: await draw(canvases.get(id), picture).catch(() => null) });
  };
}

/**
 * @param {OffscreenCanvas | undefined} canvas
 * @param {Wanted} picture
 * @returns its size, and when it was drawn, on the clock that the page shares
 */
async function draw(canvas, { blob, cells, image }) {
  const bitmap = await createImageBitmap(blob);
  if (canvas) drawPart(canvas, bitmap, cells, image);
  bitmap.close();
  return { width: canvas?.width, height: canvas?.height, at: performance.timeOrigin + performance.now() };
}
