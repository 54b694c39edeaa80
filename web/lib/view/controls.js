/** The live settings: one control for each, pause, interrupt. */

import { elementsOf, iconButton, keepFromPage, setIcon, setText } from "./dom.js";
import { allows, labelOf, tooltipOf, unitText } from "../data/settings.js";
import { t } from "../host/strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("../data/settings.js").Field} Field */
/**
 * @typedef {object} Control
 * @property {HTMLElement} element
 * @property {HTMLButtonElement} undo
 * @property {(value: any, isOther: boolean) => void} show the value; `isOther`: that of another run
 */

/** How far sliders reach; any allowed number can be typed beside them. */
const COMFORTABLE = /** @type {Record<string, [max: number, step: number]>} */ ({
  throttle_ms: [2000, 20],
  every_n_steps: [20, 1],
  max_size: [2048, 64],
  video_frames: [128, 1],
  fps: [60, 1],
  batch_images: [25, 1],
});

/** The least that a number with a meaning of its own for 0 may be otherwise. */
const LEAST = /** @type {Record<string, number>} */ ({ max_size: 64 });

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
    const { liveSettings } = shared;
    this.make = element;
    this.shared = shared;
    /** @type {Map<string, Control>} */
    this.controls = new Map();
    /** @type {import("../data/store.js").Run | null | undefined} whose values are shown */
    this._run = undefined;
    for (const [name, field] of Object.entries(shared.settings.fields)) {
      this.controls.set(name, field.type === "choice" ? this._choice(name, field) : this._number(name, field));
    }
    this.pause = iconButton(element, "pause", t("liveSettings.pause"), () => liveSettings.togglePause());
    this.stop = iconButton(element, "stop-circle", t("liveSettings.interrupt"), () => liveSettings.interrupt(), {
      class: "ss-icon-button ss-danger",
    });
    this.hint = element("p", { class: "ss-hint", hidden: true });
    this.changedText = element("span");
    this.changedBar = element(
      "div",
      { class: "ss-changed-bar", hidden: true },
      this.changedText,
      this._button("always", () => liveSettings.keepAlways()),
      this._button("reset", () => liveSettings.takeBack()),
    );
    this.element = element(
      "details",
      { class: "ss-live-settings", open: true },
      element("summary", { onkeydown: keepFromPage }, t("liveSettings.label")),
      this.hint,
      this.changedBar,
      this._rows(Object.keys(shared.settings.fields).filter((name) => !Object.values(FOLDS).flat().includes(name))),
      ...Object.entries(FOLDS).map(([fold, names]) =>
        element(
          "details",
          { class: "ss-fold" },
          element("summary", { onkeydown: keepFromPage }, t(`liveSettings.${fold}`)),
          this._rows(names),
        ),
      ),
    );
  }

  /**
   * @param {string} name of its text
   * @param {() => void} act
   */
  _button(name, act) {
    const title = t(`liveSettings.${name}Tooltip`);
    return this.make("button", { type: "button", class: "ss-chip", title, onclick: act }, t(`liveSettings.${name}`));
  }

  /** @param {string[]} names */
  _rows(names) {
    const known = names.flatMap((name) => this.controls.get(name)?.element ?? []);
    return this.make("div", { class: "ss-controls" }, ...known);
  }

  /** Show the settings of the watched run, or the user's own. */
  update() {
    const { watching, settings, liveSettings, store } = this.shared;
    const { run } = watching;
    const running = run?.live && !run.foreign ? run : null;
    const isOther = running !== this._run;
    this._run = running;
    const own = settings.values();
    const { changed, changes } = liveSettings;
    for (const [name, control] of this.controls) {
      const value = running?.settings?.[name] ?? changes[name] ?? own[name];
      control.show(value, isOther);
      const isChanged = changed.includes(name);
      control.element.classList.toggle("ss-changed", isChanged);
      control.undo.hidden = !isChanged;
      if (name === "batch") this.controls.get("batch_images")?.element.toggleAttribute("hidden", !SEVERAL.includes(value));
    }
    this.changedBar.hidden = changed.length === 0;
    setText(this.changedText, t("liveSettings.changed", { count: changed.length }));
    const isSetByNode = Object.keys(own).some((name) => {
      const value = running?.settings?.[name];
      return value !== undefined && value !== own[name] && !(name in changes);
    });
    this.hint.hidden = !running;
    setText(this.hint, [t("liveSettings.forThisRun"), isSetByNode ? t("liveSettings.fromNode") : ""].join(" ").trim());
    setIcon(this.pause, liveSettings.paused ? "play" : "pause", t(liveSettings.paused ? "liveSettings.resume" : "liveSettings.pause"));
    this.pause.setAttribute("aria-pressed", String(liveSettings.paused));
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
        "aria-label": labelOf(name, field),
        onchange: () => this.shared.liveSettings.change(name, select.value),
        onkeydown: keepFromPage,
      },
      ...(field.options ?? []).map((option) => this.make("option", { value: option }, option)),
    );
    return {
      ...this._row(name, field, select),
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
    const least = LEAST[name] ?? min;
    const label = labelOf(name, field);
    const text = this.make("span", { class: "ss-unit" });
    const problem = this.make("span", { class: "ss-problem", role: "alert", hidden: true });
    let shown = NaN;
    let isTyped = false;
    let isDragged = false;

    /** @param {number} value */
    const write = (value) => {
      if (!isDragged && slider.valueAsNumber !== value) slider.value = String(value);
      if (number.valueAsNumber !== value) number.value = String(value);
      const unit = unitText(name, field, value);
      setText(text, unit);
      slider.setAttribute("aria-valuetext", `${value} ${unit}`.trim());
    };
    /** @param {number} value */
    const fit = (value) => (least > min && value < least ? 0 : Math.max(min, value));
    const slider = this.make("input", {
      type: "range",
      min,
      max: Math.min(reach, max),
      step,
      "aria-label": label,
      // While it is dragged only its own number moves; what it comes to is told once, at the end.
      oninput: () => {
        isDragged = true;
        write(fit(slider.valueAsNumber));
      },
      onchange: () => {
        isDragged = false;
        problem.hidden = true;
        this.shared.liveSettings.change(name, fit(slider.valueAsNumber));
      },
      onkeydown: keepFromPage,
    });
    const number = this.make("input", {
      type: "number",
      name,
      min,
      max,
      step: 1,
      "aria-label": label,
      oninput: () => (isTyped = true),
      onblur: () => (isTyped = false),
      onchange: () => {
        isTyped = false;
        const value = number.valueAsNumber;
        const isRight = allows(field, value) && !(value > min && value < least);
        problem.hidden = isRight;
        if (isRight) return this.shared.liveSettings.change(name, value);
        const range = t("liveSettings.range", { min: least, max });
        setText(problem, least > min ? t("liveSettings.zeroOr", { range }) : range);
        write(shown);
      },
      onkeydown: keepFromPage,
    });
    return {
      ...this._row(name, field, slider, number, text, problem),
      show: (value, isOther) => {
        shown = value;
        if (isOther) isTyped = isDragged = false;
        if (!isTyped && !isDragged) write(value);
      },
    };
  }

  /**
   * @param {string} name
   * @param {Field} field
   * @param {...HTMLElement} parts
   */
  _row(name, field, ...parts) {
    const label = labelOf(name, field);
    const undo = iconButton(this.make, "undo", t("liveSettings.undo", { name: label }), () => this.shared.liveSettings.takeBack([name]), {
      class: "ss-icon-button ss-undo",
      hidden: true,
    });
    const element = this.make(
      "div",
      { class: "ss-control", title: tooltipOf(name, field), "data-setting": name },
      this.make("span", { class: "ss-control-name" }, undo, this.make("span", {}, label)),
      ...parts,
    );
    return { element, undo };
  }
}
