/** Decodes an animated WebP frame by frame; only one composed picture is kept. */

import { unpackedWebp } from "./webp.js";

/** @typedef {import("./webp.js").PackedFrame} PackedFrame */

// As browsers do: a frame with a shorter duration is shown for a tenth of a second.
const LEAST_MS = 11;
const INSTEAD_MS = 100;

export class AnimationDecoder {
  /**
   * @param {Blob} blob an animated WebP
   * @returns {Promise<AnimationDecoder>}
   */
  static async of(blob) {
    return new AnimationDecoder(unpackedWebp(new Uint8Array(await blob.arrayBuffer())));
  }

  /** @param {{ width: number, height: number, frames: PackedFrame[] }} file */
  constructor({ width, height, frames }) {
    this._frames = frames;
    /** The picture of the frame that was composed last. */
    this.canvas = new OffscreenCanvas(width, height);
    this._context = /** @type {OffscreenCanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    this._composed = -1;
    let end = 0;
    /** When each frame ends, in milliseconds. */
    this._ends = frames.map(({ duration }) => (end += duration < LEAST_MS ? INSTEAD_MS : duration));
  }

  get count() {
    return this._frames.length;
  }

  /** How long it plays, in milliseconds. */
  get duration() {
    return this._ends[this._ends.length - 1];
  }

  /** @param {number} ms into the decoder */
  indexAt(ms) {
    const index = this._ends.findIndex((end) => ms < end);
    return index < 0 ? this.count - 1 : index;
  }

  /** @param {number} index */
  startOf(index) {
    return index > 0 ? this._ends[index - 1] : 0;
  }

  /** @param {number} index */
  endOf(index) {
    return this._ends[index];
  }

  /**
   * Make `canvas` show a frame. One call at a time.
   *
   * @param {number} index
   */
  async compose(index) {
    if (index === this._composed) return;
    let at = index;
    while (at > 0 && at !== this._composed + 1 && !this._frames[at].whole) at -= 1;
    for (; at <= index; at++) {
      const { x, y, width, height, blend, file } = this._frames[at];
      const bitmap = await createImageBitmap(new Blob([file], { type: "image/webp" }));
      this._clearBefore(at);
      if (!blend) this._context.clearRect(x, y, width, height);
      this._context.drawImage(bitmap, x, y);
      bitmap.close();
      this._composed = at;
    }
  }

  /** @param {number} index of the frame that is drawn next */
  _clearBefore(index) {
    const last = this._frames[index - 1];
    if (index === 0) this._context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    else if (last.dispose) this._context.clearRect(last.x, last.y, last.width, last.height);
  }
}
