/** Small pictures of frames for all timelines: each decoded once, the most recently used kept. */

/** @typedef {import("./store.js").Frame} Frame */
/**
 * @typedef {object} Thumbnail
 * @property {Promise<ImageBitmap | null>} picture
 * @property {ImageBitmap | null} made
 */

export class Thumbnails {
  /**
   * @param {() => number} limit in bytes, asked for every time
   * @param {() => void} [grown] called when one was made
   */
  constructor(limit, grown = () => {}) {
    this.limit = limit;
    this.grown = grown;
    /** Memory of the kept ones, in bytes. */
    this.bytes = 0;
    /** @type {Map<Frame, Thumbnail>} by last use */
    this._kept = new Map();
  }

  /**
   * @param {Frame} frame
   * @param {number} side in pixels, of the square that it covers
   * @returns {Promise<ImageBitmap | null>} null if it could not be decoded; closed, and so without
   *   a width, if it was dropped meanwhile
   */
  of(frame, side) {
    let known = this._kept.get(frame);
    this._kept.delete(frame);
    known ??= this._make(frame, side);
    this._kept.set(frame, known);
    return known.picture;
  }

  /** @param {Frame} frame that is kept no longer */
  drop(frame) {
    const { made } = this._kept.get(frame) ?? {};
    this._kept.delete(frame);
    if (!made) return;
    this.bytes -= weightOf(made);
    made.close();
  }

  /**
   * @param {Frame} frame
   * @param {number} side
   */
  _make(frame, side) {
    /** @type {Thumbnail} */
    const thumbnail = { picture: Promise.resolve(null), made: null };
    const size = frame.height > frame.width ? { resizeWidth: side } : { resizeHeight: side };
    thumbnail.picture = createImageBitmap(frame.blob, { ...size, resizeQuality: "medium" }).then(
      (made) => this._keep(frame, thumbnail, made),
      () => null,
    );
    return thumbnail;
  }

  /**
   * @param {Frame} frame
   * @param {Thumbnail} thumbnail
   * @param {ImageBitmap} made
   */
  _keep(frame, thumbnail, made) {
    if (this._kept.get(frame) !== thumbnail) {
      made.close(); // the frame was dropped meanwhile
      return null;
    }
    thumbnail.made = made;
    this.bytes += weightOf(made);
    for (const oldest of this._kept.keys()) {
      if (this.bytes <= this.limit() || oldest === frame) break;
      this.drop(oldest);
    }
    this.grown();
    return made;
  }
}

/** @param {ImageBitmap} picture */
function weightOf({ width, height }) {
  return width * height * 4;
}
