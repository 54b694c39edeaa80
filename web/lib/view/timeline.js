/** A run from its first step to what came of it: its bar, how far it is, compare, save; the way to all runs. */

import { elementsOf, iconButton } from "./dom.js";
import { Progress } from "./progress.js";
import { SaveMenu } from "./save_menu.js";
import { StepBar } from "./step_bar.js";
import { t } from "../host/strings.js";

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
    this.liveSettings = shared.liveSettings;
    this.watching = watching;
    this.bar = new StepBar(document, watching, signal);
    this.progress = new Progress(document, shared, signal);
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
    this.sheet = iconButton(element, "th-large", t("sheet.open"), () => watching.showSheet(!watching.sheet));
    this.element = element(
      "section",
      { class: "ss-timeline", "aria-label": t("timeline.label") },
      this.bar.element,
      this.progress.element,
      element(
        "div",
        { class: "ss-transport" },
        this.live,
        this.back,
        this.forth,
        this.compare,
        element("div", { class: "ss-transport-end" }, this.save.element, this.sheet),
      ),
    );
  }

  /** Show the run that is watched. */
  update() {
    const { watching } = this;
    const { run, frame, single } = watching;
    this.live.setAttribute("aria-pressed", String(watching.isLive));
    const isGoing = single ? run?.live : watching.store.live;
    this.live.classList.toggle("ss-on-air", watching.isLive && Boolean(isGoing) && !this.liveSettings.silences(run));
    this.compare.setAttribute("aria-pressed", String(watching.against !== null));
    this.compare.disabled = this.back.disabled = this.forth.disabled = !frame || !single;
    this.sheet.setAttribute("aria-pressed", String(watching.sheet));
    this.save.update();
    this.bar.update();
    this.progress.update();
  }
}
