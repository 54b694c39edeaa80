/** Pictures into many small canvases: one an animation frame, however many arrive. */

import { drawPart, withBitmap } from "./bitmaps.js";

/** @typedef {import("../data/store.js").Frame} Frame */

export class OneAFrame {
  /**
   * @param {Window & typeof globalThis} window
   * @param {number} maxSide of the canvases, in pixels
   */
  constructor(window, maxSide) {
    this.window = window;
    this.maxSide = maxSide;
    /** @type {Map<HTMLCanvasElement, Frame>} the newest for each canvas */
    this._waiting = new Map();
    this._busy = false;
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Frame | null} frame null for nothing, at once
   */
  show(canvas, frame) {
    if (!frame) {
      this._waiting.delete(canvas);
      canvas.width = canvas.height = 1;
      return;
    }
    this._waiting.set(canvas, frame);
    if (!this._busy) void this._work();
  }

  async _work() {
    this._busy = true;
    for (const [canvas] of this._waiting) {
      await new Promise((next) => this.window.requestAnimationFrame(next));
      const frame = this._waiting.get(canvas);
      this._waiting.delete(canvas);
      if (frame) await withBitmap(frame, (bitmap) => drawPart(canvas, bitmap, frame.cells, null, this.maxSide));
    }
    this._busy = false;
  }
}
