/**
 * The places of a run's pictures on its bar: one for each step that the run will have, however many
 * of them are shown, and one for each result behind them.
 */

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").Run} Run */

/**
 * @param {Run} run
 * @returns {number} 1 if its first picture is what the sampler started from: step 0
 */
function startSlots({ frames: [first], foreign }) {
  return first?.step === 0 && first.totalSteps && !foreign ? 1 : 0;
}

/**
 * @param {Run} run
 * @returns {number} of its steps, those of earlier stages and step 0 included; where nobody says how
 *   many there will be, of its frames
 */
export function stepSlots(run) {
  const steps = (run.begins[run.stage] ?? 0) + run.totalSteps;
  return steps > 0 ? steps + startSlots(run) : run.frames.length;
}

/** @param {Run} run */
export function slotCount(run) {
  return stepSlots(run) + run.results.length;
}

/**
 * @param {Frame} frame
 * @returns {number} its slot, from 0
 */
export function slotOf(frame) {
  const { run } = frame;
  const steps = stepSlots(run);
  if (frame.outputNode) return steps + run.results.indexOf(frame);
  const ofStep = startSlots(run) + (run.begins[frame.stage] ?? 0) + frame.step - 1;
  const slot = frame.totalSteps ? ofStep : run.frames.indexOf(frame);
  return Math.max(0, Math.min(slot, steps - 1));
}

/** @param {Run} run how many of its slots the sampler has gone through */
export function slotsReached(run) {
  return run.totalSteps ? startSlots(run) + (run.begins[run.stage] ?? 0) + run.step : run.frames.length;
}

/**
 * @param {Frame[]} pictures
 * @param {number} slot
 * @returns {number} the index of the one that is the nearest to it; -1 if there is none
 */
export function nearest(pictures, slot) {
  let best = -1;
  let least = Infinity;
  pictures.forEach((picture, i) => {
    const distance = Math.abs(slotOf(picture) - slot);
    if (distance <= least) [best, least] = [i, distance];
  });
  return best;
}

/**
 * Which picture stands in which place of a row that has fewer places than there are slots: the newest
 * of those whose slot lies in it.
 *
 * @param {Frame[]} pictures
 * @param {number} slots
 * @param {number} places
 * @returns {Map<number, Frame>} by place
 */
export function inPlaces(pictures, slots, places) {
  return new Map(pictures.map((picture) => [Math.floor(((slotOf(picture) + 0.5) * places) / slots), picture]));
}
