/** The controls of the viewer's player: play, the frame, or the still instead. */

import { elementsOf, iconButton, keepFromPage, setIcon, setText } from "./dom.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("../media/player.js").Player} Player */
/** @typedef {import("../data/watching.js").Watching} Watching */

export class PlayerBar {
  /**
   * @param {Document} document
   * @param {Watching} watching
   * @param {Player} player
   * @param {AbortSignal} signal
   */
  constructor(document, watching, player, signal) {
    const element = elementsOf(document);
    this.watching = watching;
    this.player = player;
    this.play = iconButton(element, "play", t("player.play"), () => this._onPlay());
    this.scrubber = element("input", {
      type: "range",
      class: "ss-frames",
      min: 0,
      max: 0,
      step: 1,
      "aria-label": t("player.scrubber"),
      oninput: () => player.seek(Number(this.scrubber.value)),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this._onKey(event),
    });
    this.text = element("span", { class: "ss-frame-number" });
    this.still = element(
      "button",
      {
        type: "button",
        class: "ss-chip",
        title: t("player.stillTooltip"),
        onclick: () => watching.showStills(!watching.stills),
      },
      t("player.still"),
    );
    this.element = element(
      "div",
      { class: "ss-player", role: "group", "aria-label": t("player.label"), hidden: true },
      this.play,
      this.scrubber,
      this.text,
      this.still,
    );
    player.addEventListener("change", () => this._showFrame(), { signal });
  }

  /** Show what is to be played. */
  update() {
    const { watching } = this;
    const { animation, stills } = watching;
    this.element.hidden = !animation || !watching.single;
    this.scrubber.hidden = stills;
    this.still.setAttribute("aria-pressed", String(stills));
    if (animation && stills) setText(this.text, t("player.ofStep", { step: stepText(animation) }));
    this._showFrame();
  }

  _showFrame() {
    const { player } = this;
    const { stills } = this.watching;
    const plays = player.playing && !stills;
    setIcon(this.play, plays ? "pause" : "play", t(plays ? "player.pause" : "player.play"));
    if (stills || !player.shown) return;
    const { count, index } = player;
    const values = { frame: index + 1, frames: count, seconds: player.seconds.toFixed(1) };
    if (this.scrubber.max !== String(count - 1)) this.scrubber.max = String(count - 1);
    this.scrubber.value = String(index);
    this.scrubber.setAttribute("aria-valuetext", t("player.frame", values));
    setText(this.text, t("player.frameShort", values));
  }

  _onPlay() {
    if (!this.watching.stills) return this.player.toggle();
    this.watching.showStills(false);
    if (!this.player.playing) this.player.toggle();
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    keepFromPage(event);
    if (event.key !== " ") return;
    event.preventDefault();
    this.player.toggle();
  }
}
