/** The live settings: one control for each, pause, interrupt. */

import { elementsOf, iconButton, keepFromPage, setIcon, setText } from "./dom.js";
import { PresetSelect } from "./preset_select.js";
import { allows, labelOf, optionText, presetLabel, tooltipOf, unitText } from "../data/settings.js";
import { t } from "../host/strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("../data/settings.js").Field} Field */
/**
 * @typedef {object} Control
 * @property {HTMLElement} element
 * @property {HTMLButtonElement} undo
 * @property {(value: any, isOther: boolean) => void} show the value; `isOther`: that of another run
 */

/** The groups of settings that are folded away: rarely changed, or relevant to some models only. */
const FOLDS = ["media", "encoding"];

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
    this.preset = new PresetSelect(
      document,
      shared.settings.presets,
      (name) => this._valueOf(name),
      (name, value) => liveSettings.change(name, value),
    );
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
      element(
        "div",
        { class: "ss-control", hidden: Object.keys(shared.settings.presets).length === 0 },
        element("span", { class: "ss-control-name" }, element("span", {}, presetLabel())),
        this.preset.select,
        this.preset.sentence,
      ),
      this._rows(""),
      ...FOLDS.map((fold) =>
        element(
          "details",
          { class: "ss-fold" },
          element("summary", { onkeydown: keepFromPage }, t(`liveSettings.${fold}`)),
          this._rows(fold),
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

  /** @param {string} group */
  _rows(group) {
    const { fields } = this.shared.settings;
    const shown = [...this.controls].filter(([name]) => fields[name].group === group);
    return this.make("div", { class: "ss-controls" }, ...shown.map(([, { element }]) => element));
  }

  /**
   * @param {string} name
   * @param {Record<string, any>} [own] the user's own settings
   * @returns {any} of the run whose values are shown, or the user's own
   */
  _valueOf(name, own = this.shared.settings.values()) {
    return this._run?.settings?.[name] ?? this.shared.liveSettings.changes[name] ?? own[name];
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
    const valueOf = (/** @type {string} */ name) => this._valueOf(name, own);
    for (const [name, control] of this.controls) {
      const { needs } = settings.fields[name];
      control.show(valueOf(name), isOther);
      control.element.hidden = !!needs && !needs.values.includes(valueOf(needs.name));
      const isChanged = changed.includes(name);
      control.element.classList.toggle("ss-changed", isChanged);
      control.undo.hidden = !isChanged;
    }
    this.preset.update();
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
      ...(field.options ?? []).map((option) => this.make("option", { value: option }, optionText(name, field, option))),
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
    const { min = 0, least = min, max = 100, slider: reach = { max, step: 1 } } = field;
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
      const unit = unitText(field, value);
      setText(text, unit);
      slider.setAttribute("aria-valuetext", `${value} ${unit}`.trim());
    };
    /** @param {number} value */
    const fit = (value) => (least > min && value < least ? 0 : Math.max(min, value));
    const slider = this.make("input", {
      type: "range",
      min,
      ...reach,
      "aria-label": label,
      // While it is dragged only its own number moves; the server is told once, at the end.
      oninput: () => {
        isDragged = true;
        write(fit(slider.valueAsNumber));
      },
      // There is no change where it ends where it began.
      onpointerup: () => (isDragged = false),
      onpointercancel: () => (isDragged = false),
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
      oninput: () => {
        isTyped = true;
        problem.hidden = true;
      },
      onblur: () => (isTyped = false),
      onchange: () => {
        isTyped = false;
        const value = number.valueAsNumber;
        const isRight = allows(field, value);
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
        if (isOther || value !== shown) problem.hidden = true;
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
