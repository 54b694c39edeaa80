/** What a run is made of, in words. */

import { leftToRight, t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Run} Run */

/**
 * @param {import("../data/prompts.js").Origin} origin
 * @param {number | null} [steps] where they are known better than from the prompt
 */
export function originTexts(origin, steps = origin.steps) {
  return {
    seed: origin.seed === null ? "" : t("sheet.seed", { seed: origin.seed }),
    sampler: origin.sampler,
    steps: steps ? t("sheet.steps", { steps }) : "",
    cfg: origin.cfg === null ? "" : leftToRight(t("sheet.cfg", { cfg: origin.cfg })),
  };
}

/**
 * @param {Run} one
 * @param {Run} other
 * @returns {[string[], string[]]} what tells the two apart; nothing for the same run
 */
export function differences(one, other) {
  const [left, right] = [originTexts(one.origin, one.totalSteps), originTexts(other.origin, other.totalSteps)];
  const names = /** @type {(keyof typeof left)[]} */ (Object.keys(left)).filter((name) => left[name] !== right[name]);
  return [names.map((name) => left[name]).filter(Boolean), names.map((name) => right[name]).filter(Boolean)];
}
