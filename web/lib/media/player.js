/** Plays animations in a loop on a canvas. */

import { drawPart } from "./bitmaps.js";
import { newestOnly } from "./newest.js";
import { AnimationDecoder } from "./animation_decoder.js";

/** @typedef {import("../data/store.js").Animation} Animation */

const LOOK_AGAIN_MS = 500;

/**
 * Dispatches `change` for each picture drawn, and when it plays or pauses.
 *
 * A newer animation continues where the last one was, which is shown until the newer one's first picture
 * is ready. Nothing is decoded while it is out of sight.
 */
export class Player extends EventTarget {
  /**
   * @param {HTMLCanvasElement} canvas takes the size of the picture; hidden while there is none
   * @param {number} [maxSide] where a small picture is enough
   */
  constructor(canvas, maxSide = Infinity) {
    super();
    this.canvas = canvas;
    this.maxSide = maxSide;
    this.window = /** @type {Window & typeof globalThis} */ (canvas.ownerDocument.defaultView);
    this.playing = !this.window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    /** @type {Animation | null} what is to be played */
    this.animation = null;
    /** @type {number | null} the image of the batch to show alone */
    this.image = null;
    /** The frame that is shown. */
    this.index = 0;
    /** @type {Animation | null} what the canvas shows */
    this.shown = null;
    /** @type {AnimationDecoder | null} */
    this._decoder = null;
    /** Where it was at the time `_since`, from 0 to 1. */
    this._place = 0;
    this._since = performance.now();
    this._timer = 0;
    this._next = newestOnly(() => this._drawAndWait());
    canvas.hidden = true;
  }

  /** How many frames there are. */
  get count() {
    return this._decoder?.count ?? 0;
  }

  /** How long all of it plays, in seconds. */
  get duration() {
    return (this._decoder?.duration ?? 0) / 1000;
  }

  /** Where it is now, from 0 to 1. */
  get place() {
    return this._now();
  }

  /** When the shown frame begins, in seconds. */
  get seconds() {
    return (this._decoder?.startOf(this.index) ?? 0) / 1000;
  }

  /**
   * @param {Animation | null} animation null for nothing
   * @param {number | null} [image] of the batch, to be shown alone
   */
  show(animation, image = null) {
    const isOther = animation !== this.animation;
    if (!isOther && image === this.image) return;
    this.animation = animation;
    this.image = image;
    if (!animation) this._empty();
    else if (isOther) void this._open(animation);
    else this._draw();
  }

  toggle() {
    this._goTo(this._now());
    this.playing = !this.playing;
    this._draw();
    this._tell();
  }

  /** @param {number} index of a frame, to stop at */
  seek(index) {
    if (!this._decoder) return;
    const { count, duration } = this._decoder;
    const at = (index + count) % count;
    this.playing = false;
    this._goTo((this._decoder.startOf(at) + this._decoder.endOf(at)) / 2 / duration);
    this._draw();
  }

  /** @param {number} by this many frames forth, or back */
  step(by) {
    this.seek((this._decoder?.indexAt(this._now() * this._decoder.duration) ?? 0) + by);
  }

  /**
   * @param {boolean} playing
   * @param {number} place of a player that this one replaces, from 0 to 1
   */
  continueFrom(playing, place) {
    this.playing = playing;
    this._goTo(place);
  }

  close() {
    this.show(null);
  }

  /** @param {Animation} animation */
  async _open(animation) {
    const decoder = await AnimationDecoder.of(animation.blob).catch(complain);
    if (!decoder || this.animation !== animation) return;
    this._goTo(this._now());
    this._decoder = decoder;
    this._draw();
  }

  /** Draw the current frame, and the others when they are due. */
  _draw() {
    this._next(undefined);
  }

  async _drawAndWait() {
    this.window.clearTimeout(this._timer);
    if (!this._decoder) return;
    const isSeen = this.canvas.parentElement?.checkVisibility() ?? false;
    const wait = isSeen ? await this._drawNow(this._decoder).catch(complain) : LOOK_AGAIN_MS;
    if (wait !== undefined) this._timer = this.window.setTimeout(() => this._draw(), wait);
  }

  /**
   * @param {AnimationDecoder} decoder
   * @returns {Promise<number | undefined>} in how many milliseconds the next frame is due
   */
  async _drawNow(decoder) {
    const { animation, image } = this;
    const index = decoder.indexAt(this._now() * decoder.duration);
    await decoder.compose(index);
    if (decoder !== this._decoder || !animation) return undefined;
    drawPart(this.canvas, decoder.canvas, animation.cells, image, this.maxSide);
    this.canvas.hidden = false;
    this.index = index;
    this.shown = animation;
    this._tell();
    return this.playing ? decoder.endOf(index) - this._now() * decoder.duration : undefined;
  }

  _empty() {
    this.window.clearTimeout(this._timer);
    this._decoder = this.shown = null;
    this._place = 0;
    this.index = this.canvas.width = this.canvas.height = 0;
    this.canvas.hidden = true;
  }

  /** Where it is now, from 0 to 1. */
  _now() {
    if (!this.playing || !this._decoder) return this._place;
    return (this._place + (performance.now() - this._since) / this._decoder.duration) % 1;
  }

  /** @param {number} place */
  _goTo(place) {
    this._place = place;
    this._since = performance.now();
  }

  _tell() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}

/** @param {unknown} error */
function complain(error) {
  console.info("[SideStream] An animation could not be decoded, so it is not played.", error);
  return undefined;
}
