/**
 * Draws pictures into canvases on a thread of their own, so that a page that is busy with a large
 * graph does not hold them up. The page imports this file like every other; there it does nothing.
 */

import { drawPart } from "../data/cells.js";

/**
 * @typedef {object} Wanted
 * @property {Blob} blob
 * @property {import("../data/cells.js").Cells | null} cells
 * @property {number | null} image of the batch, to be shown alone
 * @property {number} number
 */

/**
 * @typedef {object} Easel A canvas that was handed over.
 * @property {OffscreenCanvas} canvas
 * @property {Wanted | null} wanted the newest picture, until it is drawn
 * @property {boolean} busy
 */

/** @type {Map<number, Easel>} */
const easels = new Map();

/** @type {any} */
const scope = globalThis;

if (typeof scope.WorkerGlobalScope === "function") {
  scope.onmessage = (/** @type {MessageEvent} */ event) => {
    const { id, canvas, picture, close } = event.data;
    if (canvas) easels.set(id, { canvas, wanted: null, busy: false });
    const easel = easels.get(id);
    if (close) easels.delete(id);
    if (!easel || !picture) return;
    easel.wanted = picture;
    if (!easel.busy) void paint(id, easel);
  };
}

/**
 * Draw the newest picture; those that it overtook are left out.
 *
 * @param {number} id
 * @param {Easel} easel
 */
async function paint(id, easel) {
  easel.busy = true;
  while (easel.wanted) {
    const { blob, cells, image, number } = easel.wanted;
    easel.wanted = null;
    try {
      const bitmap = await createImageBitmap(blob);
      const { canvas } = easel;
      drawPart(canvas, bitmap, cells, image);
      bitmap.close();
      const { width, height } = canvas;
      scope.postMessage({ id, number, width, height, at: performance.timeOrigin + performance.now() });
    } catch {
      scope.postMessage({ id, number, failed: true }); // the last picture stays
    }
  }
  easel.busy = false;
}
