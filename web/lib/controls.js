/** The steering wheel: one control for each setting, pause, interrupt. */

import { elementsOf, iconButton, keepFromPage, setIcon, setText } from "./dom.js";
import { allows, labelOf, tooltipOf, unitText } from "./settings.js";
import { t } from "./strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("./settings.js").Field} Field */
/** @typedef {{ show: (value: any) => void, element: HTMLElement }} Control */

/** How far sliders reach; any allowed number can be typed beside them. */
const COMFORTABLE = /** @type {Record<string, [max: number, step: number]>} */ ({
  throttle_ms: [2000, 20],
  every_n_steps: [20, 1],
  max_size: [2048, 64],
  video_frames: [128, 1],
  fps: [60, 1],
  batch_images: [25, 1],
});

/** What is changed less often, or matters to some models alone, is folded away. */
const FOLDS = { media: ["video_frames", "fps", "batch", "batch_images"], encoding: ["format", "quality", "detail", "device"] };

/** What `batch_images` counts. */
const SEVERAL = ["grid", "spread"];

export class Controls {
  /**
   * @param {Document} document
   * @param {Shared} shared
   */
  constructor(document, shared) {
    const element = elementsOf(document);
    this.make = element;
    this.shared = shared;
    /** @type {Map<string, Control>} */
    this.controls = new Map();
    for (const [name, field] of Object.entries(shared.settings.fields)) {
      this.controls.set(name, field.type === "choice" ? this._choice(name, field) : this._number(name, field));
    }
    this.pause = iconButton(element, "pause", t("steering.pause"), () =>
      shared.steering.togglePause(shared.watching.run),
    );
    this.stop = iconButton(element, "stop-circle", t("steering.interrupt"), () => shared.steering.interrupt(), {
      class: "ss-icon-button ss-danger",
    });
    this.hint = element("p", { class: "ss-hint", hidden: true }, t("steering.fromNode"));
    this.element = element(
      "details",
      { class: "ss-steering", open: true },
      element("summary", { onkeydown: keepFromPage }, t("steering.label")),
      this.hint,
      this._rows(Object.keys(shared.settings.fields).filter((name) => !Object.values(FOLDS).flat().includes(name))),
      ...Object.entries(FOLDS).map(([fold, names]) =>
        element(
          "details",
          { class: "ss-fold" },
          element("summary", { onkeydown: keepFromPage }, t(`steering.${fold}`)),
          this._rows(names),
        ),
      ),
    );
  }

  /** @param {string[]} names */
  _rows(names) {
    const known = names.flatMap((name) => this.controls.get(name)?.element ?? []);
    return this.make("div", { class: "ss-controls" }, ...known);
  }

  /** Show the settings of the watched run, or the user's own. */
  update() {
    const { watching, settings, steering, store } = this.shared;
    const run = watching.run;
    const running = run?.live && !run.foreign ? run : null;
    const own = settings.values();
    for (const [name, control] of this.controls) {
      const value = running?.settings?.[name] ?? own[name];
      control.show(name === "method" && steering.paused ? own[name] : value);
      if (name === "batch") this.controls.get("batch_images")?.element.toggleAttribute("hidden", !SEVERAL.includes(value));
    }
    const differs = running?.settings && Object.keys(own).some((name) => {
      return name in /** @type {any} */ (running.settings) && running.settings?.[name] !== own[name];
    });
    this.hint.hidden = !differs || steering.paused;
    setIcon(this.pause, steering.paused ? "play" : "pause", t(steering.paused ? "steering.resume" : "steering.pause"));
    this.pause.setAttribute("aria-pressed", String(steering.paused));
    this.stop.disabled = !store.live;
  }

  /**
   * @param {string} name
   * @param {Field} field
   * @returns {Control}
   */
  _choice(name, field) {
    const select = this.make(
      "select",
      {
        name,
        onchange: () => this.shared.steering.change(name, select.value),
        onkeydown: keepFromPage,
      },
      ...(field.options ?? []).map((option) => this.make("option", { value: option }, option)),
    );
    return {
      element: this._row(name, field, select),
      show: (value) => {
        if (select.value !== value) select.value = value;
      },
    };
  }

  /**
   * @param {string} name
   * @param {Field} field
   * @returns {Control}
   */
  _number(name, field) {
    const { min = 0, max = 100 } = field;
    const [reach, step] = COMFORTABLE[name] ?? [max, 1];
    const label = labelOf(name, field);
    const slider = this.make("input", {
      type: "range",
      min,
      max: Math.min(reach, max),
      step,
      "aria-label": label,
      oninput: () => change(fit(Number(slider.value))),
      onkeydown: keepFromPage,
    });
    const number = this.make("input", {
      type: "number",
      name,
      min,
      max,
      step: 1,
      "aria-label": label,
      onchange: () => change(Number(number.value)),
      onkeydown: keepFromPage,
    });
    const text = this.make("span", { class: "ss-unit" });
    /** @param {number} value */
    const fit = (value) => (field.zero !== undefined && value < 64 ? 0 : Math.max(min, value));
    /** @param {number} value */
    const change = (value) => {
      const wrong = !allows(field, value) || (field.zero !== undefined && value > 0 && value < 64);
      number.setAttribute("aria-invalid", String(wrong));
      if (wrong) return;
      this.shared.steering.change(name, value);
      show(value);
    };
    /** @param {number} value */
    const show = (value) => {
      if (slider.valueAsNumber !== value) slider.value = String(value);
      const isTyping = number.ownerDocument.activeElement === number;
      if (number.valueAsNumber !== value && !isTyping) {
        number.value = String(value);
        number.setAttribute("aria-invalid", "false");
      }
      const unit = unitText(name, field, value);
      setText(text, unit);
      slider.setAttribute("aria-valuetext", `${value} ${unit}`.trim());
    };
    return { element: this._row(name, field, slider, number, text), show };
  }

  /**
   * @param {string} name
   * @param {Field} field
   * @param {...HTMLElement} parts
   */
  _row(name, field, ...parts) {
    return this.make(
      "label",
      { class: "ss-control", title: tooltipOf(name, field), "data-setting": name },
      this.make("span", { class: "ss-control-name" }, labelOf(name, field)),
      ...parts,
    );
  }
}
