/** The controls of a run's sound: on or off, volume and, while it plays by itself, its position. */

import { elementsOf, iconButton, keepFromPage, setIcon, setText } from "./dom.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("../media/sound_player.js").SoundPlayer} SoundPlayer */
/** @typedef {import("../data/watching.js").Watching} Watching */

/** Louder and softer by the arrow keys. */
const VOLUME_STEP = 0.05;

export class SoundBar {
  /**
   * @param {Document} document
   * @param {Watching} watching
   * @param {SoundPlayer} player
   * @param {AbortSignal} signal
   */
  constructor(document, watching, player, signal) {
    const element = elementsOf(document);
    this.watching = watching;
    this.player = player;
    this.hear = iconButton(element, "volume-off", t("sound.hear"), () => player.toggle(), { class: "ss-icon-button ss-hear" });
    this.position = element("input", {
      type: "range",
      class: "ss-position",
      min: 0,
      step: 0.1,
      "aria-label": t("sound.position"),
      onkeydown: keepFromPage,
      oninput: () => player.seek(Number(this.position.value)),
    });
    this.volume = element("input", {
      type: "range",
      class: "ss-volume",
      min: 0,
      max: 1,
      step: VOLUME_STEP,
      value: player.volume,
      title: t("sound.volume"),
      "aria-label": t("sound.volume"),
      onkeydown: keepFromPage,
      oninput: () => player.setVolume(Number(this.volume.value)),
    });
    this.text = element("span", { class: "ss-frame-number ss-sound-text" });
    this.element = element(
      "div",
      { class: "ss-player ss-sound", role: "group", "aria-label": t("sound.label"), hidden: true },
      this.hear,
      this.volume,
      this.position,
      this.text,
    );
    player.addEventListener("change", () => this._show(), { signal });
  }

  /** Show what can be heard. */
  update() {
    const { watching, player } = this;
    const sound = watching.single ? watching.sound : null;
    player.show(sound);
    this.element.hidden = !sound;
    if (!sound) return;
    const { seconds, ofSeconds } = sound;
    const values = { step: stepText(sound), seconds: shown(seconds), of: shown(ofSeconds) };
    const isPart = ofSeconds - seconds > 0.1;
    this.text.title = t(isPart ? "sound.part" : "sound.whole", values);
    setText(this.text, this.text.title);
    this._show();
  }

  _show() {
    const { player } = this;
    const { sound, on, follows } = player;
    setIcon(this.hear, on ? "volume-up" : "volume-off", t(on ? "sound.mute" : "sound.hear"));
    this.hear.setAttribute("aria-pressed", String(on));
    this.position.hidden = follows;
    if (!sound || follows) return;
    if (this.position.max !== String(sound.seconds)) this.position.max = String(sound.seconds);
    this.position.value = String(player.seconds);
    const values = { at: shown(player.seconds), seconds: shown(sound.seconds) };
    this.position.setAttribute("aria-valuetext", t("sound.at", values));
  }
}

/** @param {number} seconds */
function shown(seconds) {
  return seconds.toFixed(1).replace(/\.0$/, "");
}
