/** The samplers of the newest prompt, by the names of their nodes: follow, pin one, or see all. */

import { elementsOf, setText } from "./dom.js";
import { t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Run} Run */
/** @typedef {import("../data/watching.js").Watching} Watching */

export class SamplerTabs {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   */
  constructor(document, { watching, liveSettings }) {
    this.make = elementsOf(document);
    this.liveSettings = liveSettings;
    this.watching = watching;
    this.follow = this._chip(t("tabs.follow"), t("tabs.followTooltip"), () => watching.follow());
    this.all = this._chip(t("tabs.all"), t("tabs.allTooltip"), () =>
      watching.showGrid(!watching.grid),
    );
    this.samplers = this.make("span", { class: "ss-samplers" });
    this.element = this.make(
      "div",
      { class: "ss-tabs", role: "group", "aria-label": t("tabs.label"), hidden: true },
      this.follow,
      this.samplers,
      this.all,
    );
    /** @type {Map<string, HTMLButtonElement>} by node */
    this.chips = new Map();
  }

  /** Show the current samplers. */
  update() {
    const { watching } = this;
    const runs = newestOfEachNode(watching.store.current);
    const { pinnedNode } = watching;
    this.element.hidden = runs.length < 2 && pinnedNode === null && !watching.grid;
    for (const [node, chip] of this.chips) {
      if (runs.some((run) => run.displayNodeId === node)) continue;
      chip.remove();
      this.chips.delete(node);
    }
    for (const run of runs) {
      const node = run.displayNodeId;
      let chip = this.chips.get(node);
      if (!chip) {
        chip = this._chip("", "", () => watching.pin(node));
        this.chips.set(node, chip);
        this.samplers.append(chip);
      }
      const total = run.totalSteps;
      setText(chip, total ? `${run.title} ${run.step}/${total}` : run.title);
      chip.title = t("tabs.pinTooltip", { title: run.title });
      chip.style.setProperty("--progress", String(total ? run.step / total : 0));
      chip.classList.toggle("ss-live", run.live && !this.liveSettings.silences(run));
      chip.classList.toggle("ss-shown", !watching.grid && watching.run?.displayNodeId === node);
      chip.setAttribute("aria-pressed", String(pinnedNode === node));
    }
    this.all.hidden = runs.length < 2 && !watching.grid;
    this.follow.setAttribute("aria-pressed", String(pinnedNode === null && !watching.grid));
    this.all.setAttribute("aria-pressed", String(watching.grid));
  }

  /**
   * @param {string} text
   * @param {string} title
   * @param {() => void} act
   */
  _chip(text, title, act) {
    return this.make("button", { type: "button", class: "ss-chip", title, onclick: act }, text);
  }
}

/**
 * @param {Run[]} runs
 * @returns {Run[]}
 */
function newestOfEachNode(runs) {
  return [...new Map(runs.map((run) => [run.displayNodeId, run])).values()];
}
