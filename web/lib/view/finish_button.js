/** Finish here: ends a running sampler and goes on with what is seen. */

import { AskButton } from "./ask_button.js";
import { elementsOf, whenEnded } from "./dom.js";
import { t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Run} Run */

export class FinishButton {
  /**
   * @param {Document} document
   * @param {import("../data/live_settings.js").LiveSettings} liveSettings
   * @param {() => Run | null} chosen the run that it is for
   * @param {AbortSignal} signal
   */
  constructor(document, liveSettings, chosen, signal) {
    this.liveSettings = liveSettings;
    this.chosen = chosen;
    /** @type {Run | null} which it would end */
    this._run = null;
    const texts = { label: t("finish.here"), sure: t("finish.sure") };
    this.button = new AskButton(elementsOf(document), "check-circle", texts, () => {
      if (this._run) void liveSettings.finish(this._run);
    });
    this.element = this.button.element;
    whenEnded(signal, () => this.button.ask(false));
  }

  /** Show whether the sampler can be finished. */
  update() {
    const run = this.liveSettings.finishable(this.chosen());
    this.element.disabled = !run;
    if (run !== this._run) this.button.ask(false);
    this._run = run;
  }
}

/**
 * @param {Run | null} run
 * @returns {string} at which step it was finished early, if it was
 */
export function finishedText(run) {
  if (!run || run.finishedAt === null) return "";
  return t("finish.at", { step: run.finishedAt, total: run.totalSteps });
}
