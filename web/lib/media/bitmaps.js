/** Frames decoded to bitmaps, shared by all that draw them, and bitmaps drawn into canvases. */

import { partOf } from "../data/cells.js";

/** @typedef {import("../data/store.js").Frame} Frame */

const KEPT = 6;
/** In pixels. No preview has more; what came of a prompt may. */
const LARGEST_KEPT = 2048 ** 2;

/** @type {Map<Frame, Promise<ImageBitmap>>} by last use */
const decoded = new Map();

/**
 * Call `draw` with the frame's bitmap, which is valid only until `draw` returns.
 *
 * @param {Frame} frame
 * @param {(bitmap: ImageBitmap) => void} draw
 * @returns {Promise<boolean>} false if the picture could not be decoded
 */
export async function withBitmap(frame, draw) {
  let pending = decoded.get(frame);
  decoded.delete(frame);
  pending ??= createImageBitmap(frame.blob);
  decoded.set(frame, pending);
  if (decoded.size > KEPT) {
    const [oldest] = decoded.keys();
    forget(oldest);
  }
  try {
    const bitmap = await pending;
    // Evicted and closed meanwhile: decode it for this call alone.
    if (bitmap.width === 0) return await drawApart(frame, draw);
    draw(bitmap);
    if (bitmap.width * bitmap.height > LARGEST_KEPT) forget(frame);
    return true;
  } catch {
    decoded.delete(frame);
    return false;
  }
}

/**
 * @param {Frame} frame
 * @param {(bitmap: ImageBitmap) => void} draw
 */
async function drawApart(frame, draw) {
  const bitmap = await createImageBitmap(frame.blob);
  draw(bitmap);
  bitmap.close();
  return true;
}

/** @param {Frame} frame whose bitmap is kept no longer */
function forget(frame) {
  const bitmap = decoded.get(frame);
  decoded.delete(frame);
  bitmap?.then(
    (done) => done.close(),
    () => {},
  );
}

/**
 * Draw one image of a picture, or all of it, into a canvas, which takes its size.
 *
 * @param {HTMLCanvasElement | OffscreenCanvas} canvas
 * @param {ImageBitmap | OffscreenCanvas} picture
 * @param {import("../data/cells.js").Cells | null} cells
 * @param {number | null} image its place in the batch
 * @param {number} [maxSide] where a small picture is enough
 */
export function drawPart(canvas, picture, cells, image, maxSide = Infinity) {
  const part = partOf(cells, image, picture.width, picture.height);
  const shrink = Math.min(1, maxSide / Math.max(part.width, part.height));
  const width = Math.max(1, Math.round(part.width * shrink));
  const height = Math.max(1, Math.round(part.height * shrink));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.globalCompositeOperation = "copy"; // also what is transparent
  context.drawImage(picture, part.x, part.y, part.width, part.height, 0, 0, width, height);
}
