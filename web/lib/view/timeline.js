/** A run from its first step to what came of it: its bar, how far it is, earlier runs, compare, save. */

import { elementsOf, iconButton, keepFromPage, setText } from "./dom.js";
import { Progress } from "./progress.js";
import { SaveMenu } from "./save_menu.js";
import { StepBar } from "./step_bar.js";
import { t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Run} Run */
/** @typedef {import("../data/watching.js").Watching} Watching */

export class Timeline {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   * @param {import("../media/player.js").Player} player the viewer's
   * @param {AbortSignal} signal
   */
  constructor(document, shared, player, signal) {
    const element = elementsOf(document);
    const { watching } = shared;
    this.make = element;
    this.liveSettings = shared.liveSettings;
    this.watching = watching;
    /** @type {Run[]} those that the list of runs shows */
    this._listed = [];

    this.bar = new StepBar(document, watching, signal);
    this.progress = new Progress(document, shared, signal);
    this.runs = element("select", {
      class: "ss-runs",
      "aria-label": t("timeline.runs"),
      title: t("timeline.runs"),
      onchange: () => this._chooseRun(),
      onkeydown: keepFromPage,
    });
    this.live = element(
      "button",
      { type: "button", class: "ss-live-button", title: t("timeline.liveTooltip"), onclick: () => watching.goLive() },
      t("timeline.live"),
    );
    this.compare = iconButton(element, "arrows-h", t("timeline.compare"), () =>
      watching.compare(watching.against === null),
    );
    const step = (/** @type {number} */ by) => () => watching.scrub(watching.index + by);
    this.back = iconButton(element, "step-backward", t("timeline.back"), step(-1));
    this.forth = iconButton(element, "step-forward", t("timeline.forth"), step(1));
    this.save = new SaveMenu(document, shared, player);
    this.forget = iconButton(element, "trash", t("timeline.forget"), () => watching.store.clear());
    this.element = element(
      "section",
      { class: "ss-timeline", "aria-label": t("timeline.label") },
      this.bar.element,
      this.progress.element,
      element(
        "div",
        { class: "ss-row ss-transport" },
        this.live,
        this.back,
        this.forth,
        this.compare,
        element("span", { class: "ss-space" }),
        this.save.element,
        this.forget,
      ),
      this.runs,
    );
  }

  /** Show the run that is watched. */
  update() {
    const { watching } = this;
    const { run, frame, grid } = watching;
    this.live.setAttribute("aria-pressed", String(watching.isLive));
    const isGoing = grid ? watching.store.live : run?.live;
    this.live.classList.toggle("ss-on-air", watching.isLive && Boolean(isGoing) && !this.liveSettings.silences(run));
    this.compare.setAttribute("aria-pressed", String(watching.against !== null));
    this.compare.disabled = this.back.disabled = this.forth.disabled = !frame || grid;
    this.forget.disabled = watching.store.frameCount === 0;
    this._listRuns();
    this.save.update();
    this.bar.update();
    this.progress.update();
  }

  _listRuns() {
    const kept = this.watching.store.runs.filter((run) => run.frames.length > 0).reverse();
    const isSame = kept.length === this._listed.length && kept.every((run, i) => run === this._listed[i]);
    if (!isSame) {
      this._listed = kept;
      this.runs.replaceChildren(...kept.map((run) => this.make("option", { value: run.id })));
    }
    kept.forEach((run, i) => setText(this.runs.options[i], runText(run)));
    const shown = this.watching.run?.id ?? "";
    if (this.runs.value !== shown) this.runs.value = shown;
    this.runs.hidden = kept.length < 2;
  }

  _chooseRun() {
    const run = this._listed[this.runs.selectedIndex];
    if (run?.live) this.watching.pin(run.displayNodeId);
    else if (run) this.watching.choose(run);
  }
}

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** @param {Run} run */
function runText(run) {
  const time = clock.format(run.startedAt);
  return t("timeline.runText", { title: run.title, time, count: run.frames.length });
}
