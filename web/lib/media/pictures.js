/** Frames decoded to bitmaps, once for all who draw them. */

import { drawPart } from "../data/cells.js";

/** @typedef {import("../data/store.js").Frame} Frame */

const KEPT = 6;

/** @type {Map<Frame, Promise<ImageBitmap>>} by last use */
const decoded = new Map();

/**
 * Call `draw` with the frame's bitmap, which must not be used after `draw` returns.
 *
 * @param {Frame} frame
 * @param {(bitmap: ImageBitmap) => void} draw
 * @returns {Promise<boolean>} false where the picture could not be decoded
 */
async function withPicture(frame, draw) {
  let pending = decoded.get(frame);
  decoded.delete(frame);
  pending ??= createImageBitmap(frame.blob);
  decoded.set(frame, pending);
  if (decoded.size > KEPT) {
    const [[oldest, bitmap]] = decoded;
    decoded.delete(oldest);
    close(bitmap);
  }
  try {
    const bitmap = await pending;
    // Closed meanwhile, by others who drew much: decode it for this call alone.
    if (bitmap.width === 0) return await drawApart(frame, draw);
    draw(bitmap);
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

/** @param {Promise<ImageBitmap>} bitmap */
function close(bitmap) {
  bitmap.then(
    (done) => done.close(),
    () => {},
  );
}

/**
 * Draws frames into a canvas, the newest only: what comes while one is decoded replaces what waits.
 */
export class FramePainter {
  /**
   * @param {HTMLCanvasElement} canvas takes the size of the picture
   * @param {(frame: Frame) => void} [drawn]
   * @param {number} [maxSide] where a small picture is enough
   */
  constructor(canvas, drawn = () => {}, maxSide = Infinity) {
    this.canvas = canvas;
    this.drawn = drawn;
    this.maxSide = maxSide;
    /** @type {Frame | null} what the canvas shows */
    this.frame = null;
    /** @type {Frame | null} */
    this._wanted = null;
    /** @type {number | null} */
    this._image = null;
    this._busy = false;
  }

  /**
   * @param {Frame | null} frame null for nothing
   * @param {number | null} [image] of the batch, to be shown alone
   */
  show(frame, image = null) {
    if (image !== this._image) this.frame = null;
    this._image = image;
    this._wanted = frame;
    if (frame === null) this._clear();
    else if (!this._busy) void this._paint();
  }

  async _paint() {
    this._busy = true;
    while (this._wanted && this._wanted !== this.frame) {
      const frame = this._wanted;
      await withPicture(frame, (bitmap) => {
        if (!this._wanted) return;
        drawPart(this.canvas, bitmap, frame.cells, this._image, this.maxSide);
        this.drawn(frame);
      });
      this.frame = this._wanted && frame;
    }
    this._busy = false;
  }

  _clear() {
    this.frame = null;
    this.canvas.width = this.canvas.height = 1;
  }
}
