/** The menu that saves what is watched: the large picture, its animation, the run. */

import { toast } from "../host/comfy.js";
import { elementsOf, setText } from "./dom.js";
import { fileOf } from "../data/sounds.js";
import { saveAnimation, saveFrame, savePlayed, saveRun, saveSound } from "../media/saving.js";
import { isStandIn } from "../data/store.js";
import { t } from "../host/strings.js";

export class SaveMenu {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   * @param {import("../media/player.js").Player} player the viewer's
   */
  constructor(document, { store, watching }, player) {
    const element = elementsOf(document);
    this.watching = watching;
    this.player = player;
    this.label = element("span", {}, t("timeline.save.label"));
    this.burn = element("input", { type: "checkbox", name: "burn" });
    this.withResult = element("input", { type: "checkbox", name: "result", checked: true });
    this.resultItem = element("label", { class: "ss-menu-item" }, this.withResult, t("timeline.save.withResult"));
    /** @param {string} name @param {() => Promise<void> | void} save */
    const item = (name, save) =>
      element(
        "button",
        { type: "button", class: "ss-menu-item", "data-save": name, onclick: () => void this._save(save) },
        t(`timeline.save.${name}`),
      );
    this.animation = item("animation", () => {
      if (watching.animation) saveAnimation(watching.animation, this._wishes);
    });
    this.sound = item("sound", async () => {
      const { sound } = watching;
      const file = sound && (await fileOf(store, sound));
      if (sound) saveSound(sound, file, this._wishes);
    });
    this.button = element(
      "button",
      {
        type: "button",
        class: "ss-icon-button ss-menu-button",
        title: t("timeline.save.tooltip"),
        onclick: (/** @type {Event} */ event) => {
          if (this.isEmpty) event.preventDefault();
        },
      },
      element("i", { class: "pi pi-download", "aria-hidden": "true" }),
      this.label,
    );
    // The browser closes it on a press anywhere else, even one that the page handles itself.
    this.list = element(
      "div",
      { class: "ss-menu-list", popover: true },
      item("png", () => this._savePicture()),
      this.animation,
      this.sound,
      item("webp", () => this._saveRun("webp")),
      item("webm", () => this._saveRun("webm")),
      this.resultItem,
      element("label", { class: "ss-menu-item" }, this.burn, t("timeline.save.burn")),
    );
    this.button.popoverTargetElement = this.list;
    /** @param {KeyboardEvent} event */
    const keepEscape = (event) => event.key === "Escape" && event.stopPropagation();
    this.element = element("div", { class: "ss-menu", onkeydown: keepEscape }, this.button, this.list);
  }

  /** Whether there is nothing to save; with all samplers shown, one must be chosen first. */
  get isEmpty() {
    return !this.watching.frame || !this.watching.single;
  }

  /** Show what can be saved. */
  update() {
    this.animation.hidden = !this.watching.animation;
    this.sound.hidden = !this.watching.sound;
    this.resultItem.hidden = !this.watching.run?.results.length;
    const { isEmpty } = this;
    if (isEmpty) this.list.hidePopover();
    this.button.classList.toggle("ss-disabled", isEmpty);
    this.button.setAttribute("aria-disabled", String(isEmpty));
    this.button.tabIndex = isEmpty ? -1 : 0;
  }

  get _wishes() {
    return { burn: this.burn.checked, image: this.watching.image };
  }

  /** The large picture. */
  async _savePicture() {
    const { frame } = this.watching;
    if (this.player.shown) await savePlayed(this.player, this._wishes);
    else if (frame) await saveFrame(frame, this._wishes);
  }

  /** @param {"webp" | "webm"} kind */
  async _saveRun(kind) {
    const { frames: all = [], results = [] } = this.watching.run ?? {};
    const stills = all.filter((frame) => !isStandIn(frame));
    const frames = [...(stills.length ? stills : all), ...(this.withResult.checked ? results : [])];
    if (!all.length) return;
    await saveRun(frames, kind, this._wishes, (done) => setText(this.label, `${done}/${frames.length}`));
  }

  /** @param {() => Promise<void> | void} save */
  async _save(save) {
    this.list.hidePopover();
    try {
      await save();
    } catch (error) {
      toast("error", t("timeline.save.failed", { why: String(error) }));
    }
    setText(this.label, t("timeline.save.label"));
  }
}
