/** How long a sampler's step takes, and how long the rest will take, from when its last steps came. */

const KEPT = 12;

/** Steps that arrive together say nothing about how long each took. */
const AT_ONCE_MS = 15;

/** All times in milliseconds of one clock, which the caller reads. */
export class Pace {
  constructor() {
    /** @type {{ step: number, at: number }[]} the last steps, by age */
    this._reached = [];
  }

  /**
   * @param {number} step from 1; one that was reached before changes nothing
   * @param {number} at when it was done
   */
  reach(step, at) {
    const last = this._reached.at(-1);
    if (last && step <= last.step) return;
    if (last && at - last.at < AT_ONCE_MS) last.step = step;
    else this._reached.push({ step, at });
    if (this._reached.length > KEPT) this._reached.shift();
  }

  /** The next step is the first one of another sampling. */
  restart() {
    this._reached = [];
  }

  /** @returns {number | null} milliseconds, the median of the last steps; null before the second one */
  get step() {
    const times = this._reached.slice(1).map(({ step, at }, i) => {
      const before = this._reached[i];
      return (at - before.at) / (step - before.step);
    });
    times.sort((a, b) => a - b);
    const middle = times.length >> 1;
    if (times.length === 0) return null;
    return times.length % 2 ? times[middle] : (times[middle - 1] + times[middle]) / 2;
  }

  /**
   * @param {number} totalSteps
   * @param {number} now
   * @returns {number | null} milliseconds, at this pace; null while it is unknown
   */
  left(totalSteps, now) {
    const last = this._reached.at(-1);
    const { step } = this;
    if (!last || step === null || !totalSteps) return null;
    return Math.max(0, (totalSteps - last.step) * step - (now - last.at));
  }
}

/**
 * @param {number} ms
 * @returns {string} such as 0:07 or 1:02:03
 */
export function clockText(ms) {
  const seconds = Math.round(ms / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const [first, ...rest] = parts[0] ? parts : parts.slice(1);
  return [first, ...rest.map((part) => String(part).padStart(2, "0"))].join(":");
}
