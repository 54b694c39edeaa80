/** Finish here: ends the running sampler and goes on with what is seen. The first click asks. */

import { elementsOf, iconButton, setIcon, setText, whenEnded } from "./dom.js";
import { t } from "../host/strings.js";

const ASKING_MS = 3000;

export class FinishButton {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   * @param {AbortSignal} signal
   */
  constructor(document, { watching, liveSettings }, signal) {
    const element = elementsOf(document);
    this.watching = watching;
    this.liveSettings = liveSettings;
    /** @type {import("../data/store.js").Run | null} which it asks about */
    this._asked = null;
    this._timer = 0;
    this.question = element("span");
    this.mark = element("span", { class: "ss-finished", role: "status" });
    this.element = iconButton(element, "check-circle", t("finish.here"), () => this._press());
    this.element.append(this.question);
    whenEnded(signal, () => clearTimeout(this._timer));
  }

  /** Show whether the sampler that is watched can be finished. */
  update() {
    const run = this.liveSettings.finishable(this.watching.run);
    this.element.disabled = !run;
    if (this._asked !== run) this._ask(null);
    setText(this.mark, finishedText(this.watching.run));
  }

  _press() {
    const run = this.liveSettings.finishable(this.watching.run);
    if (this._asked !== run) return this._ask(run);
    this._ask(null);
    if (run) void this.liveSettings.finish(run);
  }

  /** @param {import("../data/store.js").Run | null} run */
  _ask(run) {
    clearTimeout(this._timer);
    this._asked = run;
    this._timer = run ? setTimeout(() => this._ask(null), ASKING_MS) : 0;
    this.element.setAttribute("aria-pressed", String(run !== null));
    setText(this.question, run ? t("finish.sure") : "");
    setIcon(this.element, "check-circle", t(run ? "finish.sure" : "finish.here"));
  }
}

/** @param {import("../data/store.js").Run | null} run */
function finishedText(run) {
  if (!run || run.finishedAt === null) return "";
  return t("finish.at", { step: run.finishedAt, total: run.totalSteps });
}
