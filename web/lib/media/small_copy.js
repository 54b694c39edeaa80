/** Small copies of pictures, for keeping many of them. */

const SIDE = 512;
/** What is small enough as it is. */
const BYTES = 64 * 1024;

/**
 * @param {import("../data/store.js").Frame} picture
 * @returns {Promise<import("../data/store.js").SmallCopy>} the picture itself if a copy would not be smaller
 */
export async function smallCopy({ blob, width, height }) {
  if (blob.size <= BYTES) return { blob, width, height };
  const bitmap = await createImageBitmap(blob);
  const shrink = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * shrink)), Math.max(1, Math.round(bitmap.height * shrink)));
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const small = await canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
  return small.size < blob.size ? { blob: small, width: canvas.width, height: canvas.height } : { blob, width, height };
}
