/** Frames per second, now and over the last minute. */

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").FrameStore} FrameStore */

export const SECONDS = 60;
const WINDOW_MS = 3000;

/** Counts arrivals per second in a ring buffer of fixed size. */
export class Rates {
  /** @param {FrameStore} store */
  constructor(store) {
    this._counts = new Uint16Array(SECONDS);
    this._second = 0;
    /** @type {number[]} of the last seconds */
    this._arrivals = [];
    store.addEventListener("frame", () => this._count(performance.now()));
  }

  /** @returns {number} frames a second, over the last seconds */
  now() {
    return perSecond(this._arrivals, performance.now());
  }

  /** @returns {number[]} frames in each second of the last minute, oldest first */
  minute() {
    this._advance(performance.now());
    return Array.from(this._counts, (_, i) => this._counts[(this._second + 1 + i) % SECONDS]);
  }

  /** @param {number} now */
  _count(now) {
    this._advance(now);
    this._counts[this._second % SECONDS] += 1;
    this._arrivals.push(now);
    if (this._arrivals.length > 1 && now - this._arrivals[0] > WINDOW_MS) {
      this._arrivals = this._arrivals.filter((at) => now - at < WINDOW_MS);
    }
  }

  /** @param {number} now */
  _advance(now) {
    const second = Math.floor(now / 1000);
    const from = Math.max(this._second + 1, second - SECONDS + 1);
    for (let passed = from; passed <= second; passed++) this._counts[passed % SECONDS] = 0;
    this._second = Math.max(this._second, second);
  }
}

/**
 * @param {Frame[]} frames of one run
 * @returns {number} frames a second when the last of them came
 */
export function rateOf(frames) {
  const arrivals = frames.slice(-100).map((frame) => frame.arrivedAt);
  return perSecond(arrivals, arrivals.at(-1) ?? 0);
}

/**
 * @param {number[]} arrivals in order
 * @param {number} now
 */
function perSecond(arrivals, now) {
  const recent = arrivals.filter((at) => now - at < WINDOW_MS);
  if (recent.length < 2) return 0;
  return ((recent.length - 1) * 1000) / Math.max(now - recent[0], 1);
}
