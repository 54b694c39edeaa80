/** Chooses a preset, and says in a sentence what the chosen one is for. */

import { elementsOf, keepFromPage, setText } from "./dom.js";
import { PresetChoice } from "../data/presets.js";
import { presetLabel } from "../data/settings.js";
import { t } from "../host/strings.js";

export class PresetSelect {
  /**
   * @param {Document} document
   * @param {import("../data/presets.js").Presets} presets
   * @param {(name: string) => any} valueOf a setting
   * @param {(name: string, value: any) => void} change one
   */
  constructor(document, presets, valueOf, change) {
    const element = elementsOf(document);
    this.choice = new PresetChoice(presets);
    this.valueOf = valueOf;
    this.select = element(
      "select",
      {
        name: "preset",
        class: "ss-preset",
        "aria-label": presetLabel(),
        onchange: () => {
          for (const [name, value] of Object.entries(this.choice.changes(this.select.value, valueOf))) change(name, value);
          this.update();
        },
        onkeydown: keepFromPage,
      },
      ...this.choice.names.map((name) => element("option", { value: name }, t(`presets.${name}`))),
    );
    this.own = /** @type {HTMLOptionElement} */ (this.select.lastElementChild); // the last of the names
    this.sentence = element("p", { class: "ss-sentence" });
    this.update();
  }

  /** Show which preset has the current values. */
  update() {
    const name = this.choice.of(this.valueOf);
    if (this.select.value !== name) this.select.value = name;
    this.own.disabled = this.choice.own === null;
    setText(this.sentence, t(`presets.${name}Tooltip`));
  }
}

/**
 * The one in ComfyUI's settings dialog, which asks for it each time it is opened.
 *
 * @param {Document} document
 * @param {import("../data/settings.js").Settings} settings
 * @returns {() => HTMLElement}
 */
export function presetInDialog(document, settings) {
  /** @type {PresetSelect | undefined} */
  let made;
  settings.addEventListener("change", () => made?.update());
  return () => {
    const change = (/** @type {string} */ name, /** @type {any} */ value) => void settings.set(name, value);
    made = new PresetSelect(document, settings.presets, (name) => settings.get(name), change);
    return made.select;
  };
}
