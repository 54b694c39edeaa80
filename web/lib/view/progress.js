/** How far and how long: the step, the time so far, the pace, the time left. */

import { elementsOf, setAttribute, setText, whenEnded } from "./dom.js";
import { clockText } from "../data/pace.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("../data/store.js").Run} Run */

const NAMES = /** @type {const} */ (["step", "elapsed", "pace", "left"]);
export const NOTHING = "–";

export class Progress {
  /**
   * @param {Document} document
   * @param {Shared} shared
   * @param {AbortSignal} signal
   */
  constructor(document, shared, signal) {
    const element = elementsOf(document);
    this.shared = shared;
    const { values, tiles } = statTiles(element, NAMES);
    this.values = values;
    this.tiles = tiles;
    this.notFinite = element("span", { class: "ss-warning", role: "img", hidden: true });
    this.waiting = element("p", { class: "ss-waiting", role: "status" });
    this.element = element(
      "div",
      { class: "ss-progress" },
      element("dl", { "aria-label": t("stats.progress") }, ...Object.values(this.tiles)),
      this.notFinite,
      this.waiting,
    );
    const timer = setInterval(() => {
      if (shared.store.live) this.update();
    }, 1000);
    whenEnded(signal, () => clearInterval(timer));
  }

  /** The run shown here: the watched one, or one that begins while the picture is still of the last one. */
  get run() {
    const { watching, store } = this.shared;
    if (!watching.isLive || watching.pinnedNode !== null) return watching.run;
    return store.runs.findLast((run) => run.live) ?? watching.run;
  }

  /** Show the current numbers. */
  update() {
    const { watching, store } = this.shared;
    const { run } = this;
    const { frame, isLive } = watching;
    const now = store.clock();
    const waiting = run?.live ? waitingText(this.shared, run) : "";
    const at = isLive || frame?.outputNode ? run : frame;
    const left = run?.live ? run.pace.left(run.totalSteps, now) : null;
    setText(this.values.step, at?.totalSteps ? stepText({ seq: 0, ...at, outputNode: "" }) : frame ? stepText(frame) : NOTHING);
    setText(this.values.elapsed, run ? clockText((run.endedAt ?? now) - run.begunAt) : NOTHING);
    setText(this.values.pace, paceText(run?.pace.step ?? null));
    setText(this.values.left, left === null ? NOTHING : clockText(left));
    setText(this.waiting, waiting);
    this.tiles.pace.hidden = this.tiles.left.hidden = waiting !== "";
    this._warn(frame?.notFinite ?? 0);
  }

  /** @param {number} count of positions that are no numbers */
  _warn(count) {
    this.notFinite.hidden = count === 0;
    if (count === 0) return;
    const label = t("stats.notFinite", { count });
    setText(this.notFinite, `⚠ ${count}`);
    for (const name of ["title", "aria-label"]) setAttribute(this.notFinite, name, label);
  }
}

/**
 * @param {Shared} shared
 * @param {Run} run that is live
 * @returns {string} what it waits for before its first step; nothing from then on
 */
export function waitingText({ store }, run) {
  if (store.loading) return t("viewer.loading");
  return run.step === 0 && run.stage === 1 ? t("viewer.firstStep") : "";
}

/** @param {number | null} ms a step */
function paceText(ms) {
  if (ms === null) return NOTHING;
  if (ms < 1000) return t("stats.stepsASecond", { steps: (1000 / ms).toFixed(1) });
  return t("stats.secondsAStep", { seconds: (ms / 1000).toFixed(1) });
}

/**
 * Tiles with a name and a number each, and the elements that hold the numbers.
 *
 * @param {import("./dom.js").ElementMaker} element
 * @param {readonly string[]} names keys of the texts under `stats`
 */
export function statTiles(element, names) {
  /** @type {Record<string, HTMLElement>} */
  const values = {};
  /** @type {Record<string, HTMLElement>} */
  const tiles = {};
  for (const name of names) {
    values[name] = element("dd", {}, NOTHING);
    tiles[name] = element(
      "div",
      { class: `ss-stat ss-stat-${name}`, title: t(`stats.${name}Tooltip`) },
      element("dt", {}, t(`stats.${name}`)),
      values[name],
    );
  }
  return { values, tiles };
}
