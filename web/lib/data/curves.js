/**
 * What the labels of a run's frames say about its steps: how much x0 still changed, from which sigma, and
 * how long each took. Where steps were not shown, a frame speaks for all since the one before.
 */

import { slotOf } from "./slots.js";

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").Run} Run */
/**
 * @typedef {object} Point
 * @property {number} slot of the frame's step, on the run's bar
 * @property {number} step of the frame, from 1
 * @property {number} from the first step that it speaks for
 * @property {number} stage
 * @property {number} value for each step
 */

export const NAMES = /** @type {const} */ (["change", "sigma", "time"]);

/** @typedef {Record<typeof NAMES[number], Point[]>} Curves */

/** A picture counts as finished once all later steps change no more than this share of x0. */
export const SETTLED = 0.05;

/**
 * @param {Run} run
 * @returns {Curves} by age: the change of x0 as a share of it, sigma, milliseconds
 */
export function curvesOf(run) {
  /** @type {Curves} */
  const curves = { change: [], sigma: [], time: [] };
  /** @type {{ stage: number, step: number, elapsed: number }} */
  let before = { stage: 0, step: 0, elapsed: 0 };
  for (const frame of run.frames) {
    const { label, stage, step } = frame;
    if (!label) continue;
    if (stage !== before.stage) before = { stage, step: 0, elapsed: 0 };
    const at = { slot: slotOf(frame), step, stage };
    const { sigma, change, elapsed_ms: elapsed } = label;
    if (isFinite(sigma)) curves.sigma.push({ ...at, from: step, value: sigma });
    if (change && change.since < step) {
      curves.change.push({ ...at, from: change.since + 1, value: change.rms / (step - change.since) });
    }
    if (!isFinite(elapsed) || step <= before.step) continue;
    curves.time.push({ ...at, from: before.step + 1, value: (elapsed - before.elapsed) / (step - before.step) });
    before = { stage, step, elapsed };
  }
  return curves;
}

/**
 * After which step of its last sampling so little of x0 changed that one could have stopped there. The
 * changes of the steps behind it, added up, are the most by which the last picture can differ from it.
 *
 * @param {Point[]} changes of a run that has ended
 * @returns {number | null} null if it is unknown
 */
export function settledAfter(changes) {
  const stage = changes.at(-1)?.stage;
  const points = changes.filter((point) => point.stage === stage);
  let rest = 0;
  for (let i = points.length - 1; i >= 0; i--) {
    const { step, value, from } = points[i];
    const before = points[i - 1]?.step ?? from - 1;
    rest += value * (step - before);
    if (rest >= SETTLED) return step;
  }
  return points.length ? points[0].from - 1 : null;
}

/**
 * The top of a chart's scale. The first step of a sampling often takes far longer than all others, which
 * it would flatten.
 *
 * @param {Point[]} points
 * @param {typeof NAMES[number]} name
 */
export function topOf(points, name) {
  const later = name === "time" ? points.filter(({ from }) => from > 1) : points;
  return Math.max(...(later.length ? later : points).map(({ value }) => value), Number.MIN_VALUE);
}

/**
 * @param {Point[]} points
 * @param {number} slot
 * @returns {Point | null} the point that speaks for that step, or the last one before it
 */
export function pointAt(points, slot) {
  return points.find((point) => slot <= point.slot && slot > point.slot - (point.step - point.from + 1))
    ?? points.findLast((point) => point.slot <= slot) ?? null;
}
