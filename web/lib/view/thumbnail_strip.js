/** The frames of a run, small and side by side, with a mark on each that has an animation. */

import { elementsOf, whenEnded } from "./dom.js";

/** @typedef {import("../data/store.js").Frame} Frame */

const HEIGHT = 40;
const INTERVAL_MS = 250;
const THUMB_WIDTH = 4; // of the scrubber over it, in CSS pixels

export class ThumbnailStrip {
  /**
   * @param {Document} document
   * @param {import("../data/watching.js").Watching} watching
   * @param {AbortSignal} signal
   */
  constructor(document, watching, signal) {
    this.watching = watching;
    this.window = /** @type {Window & typeof globalThis} */ (document.defaultView);
    this.canvas = elementsOf(document)("canvas", { class: "ss-thumbnails", "aria-hidden": "true" });
    this._timer = 0;
    this._drawn = 0;
    this._asked = false;
    const observer = new this.window.ResizeObserver(() => this.update());
    observer.observe(this.canvas);
    whenEnded(signal, () => {
      clearTimeout(this._timer);
      observer.disconnect();
    });
  }

  /** Show the frames of the watched run, soon. */
  update() {
    this._asked = true;
    if (this._timer) return;
    const wait = Math.max(0, this._drawn + INTERVAL_MS - performance.now());
    this._timer = setTimeout(() => void this._draw(), wait);
  }

  async _draw() {
    this._asked = false;
    const frames = this.watching.run?.frames ?? [];
    const { canvas } = this;
    const ratio = this.window.devicePixelRatio;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(HEIGHT * ratio);
    const newest = frames.at(-1);
    const aspect = newest?.width ? newest.width / newest.height : 1;
    const tile = Math.max(8, height * aspect);
    const shown = spread(frames, Math.max(1, Math.floor(width / tile)));
    const { thumbnails } = this.watching.store;
    const pictures = await Promise.all(shown.map((frame) => thumbnails.of(frame, height)));
    this._timer = 0;
    this._drawn = performance.now();
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.clearRect(0, 0, width, height);
    const slot = width / Math.max(shown.length, 1);
    pictures.forEach((picture, i) => {
      if (picture?.width) drawCovering(context, picture, i * slot, slot, height);
    });
    markAnimations(context, frames, width, ratio);
    if (this._asked) this.update(); // something changed while pictures were made
  }
}

/**
 * @param {Frame[]} frames
 * @param {number} count
 * @returns {Frame[]} at most `count` of them, evenly, with the first and the last
 */
export function spread(frames, count) {
  if (frames.length <= count) return [...frames];
  if (count === 1) return [frames[frames.length - 1]];
  return Array.from({ length: count }, (_, i) => frames[Math.round((i * (frames.length - 1)) / (count - 1))]);
}

/**
 * A mark at the place of every frame that has an animation.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame[]} frames
 * @param {number} width
 * @param {number} ratio device pixels for each CSS pixel
 */
function markAnimations(context, frames, width, ratio) {
  const last = Math.max(frames.length - 1, 1);
  const radius = 2.5 * ratio;
  context.fillStyle = "#fff";
  context.strokeStyle = "rgb(0 0 0 / 0.7)";
  context.lineWidth = ratio;
  frames.forEach((frame, i) => {
    if (!frame.animation) return;
    const x = THUMB_WIDTH * ratio * 0.5 + (i / last) * (width - THUMB_WIDTH * ratio);
    context.beginPath();
    context.arc(x, radius * 2, radius, 0, 2 * Math.PI);
    context.stroke();
    context.fill();
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {ImageBitmap} picture
 * @param {number} left
 * @param {number} width
 * @param {number} height
 */
function drawCovering(context, picture, left, width, height) {
  const scale = Math.max(width / picture.width, height / picture.height);
  const [w, h] = [width / scale, height / scale];
  const [x, y] = [(picture.width - w) / 2, (picture.height - h) / 2];
  context.drawImage(picture, x, y, w, h, left, 0, Math.ceil(width), height);
}
