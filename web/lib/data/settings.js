/**
 * The user's settings: entries of ComfyUI's settings dialog, made from the server's own description
 * of them (`GET /sidestream/settings`), so that a setting is described in one place.
 */

import { getJson, settingValue, storeSetting, toast } from "../host/comfy.js";
import { settingText, t } from "../host/strings.js";

/**
 * @typedef {object} Field A setting as the server describes it.
 * @property {"number" | "choice" | "preset"} type
 * @property {number | string} [default]
 * @property {number} [min]
 * @property {number} [least] the least number that is allowed beside `min`
 * @property {number} [max]
 * @property {{ max: number, step: number }} [slider]
 * @property {string[]} [options]
 * @property {Record<string, string>} [words] what people read for an option
 * @property {string} [unit]
 * @property {string} [zero] the key of the text for 0, where that has a meaning of its own
 * @property {string} [group] of the panel's folded controls
 * @property {{ name: string, values: string[] } | null} [needs] the setting without which it has no effect
 * @property {string} label
 * @property {string} tooltip
 */

/** @type {Record<string, Field>} */
const PAGE_FIELDS = {
  preset: {
    type: "preset",
    label: "Preset",
    tooltip: "Chooses at once how often previews come and how much of the GPU they may take.",
  },
  keep_frames: {
    type: "number",
    default: 600,
    min: 10,
    max: 20000,
    label: "Frames to keep",
    tooltip: "Number of frames the timeline keeps in the browser, across all runs.",
  },
  keep_megabytes: {
    type: "number",
    default: 128,
    min: 8,
    max: 4096,
    unit: "MB",
    label: "Memory for frames",
    tooltip: "Memory limit for the timeline; beyond it, the oldest frames are discarded.",
  },
};

/** Units that a label already names, and that each language has a word for. */
const COUNTS = ["steps", "frames", "images"];

/** Dispatches `change` when a value was changed, in the panel or elsewhere. */
export class Settings extends EventTarget {
  constructor() {
    super();
    /** @type {Record<string, Field>} what the server takes */
    this.fields = {};
    /** @type {import("./presets.js").Presets} */
    this.presets = {};
    /** @type {Set<string>} */
    this._complained = new Set();
  }

  /** Ask the server what there is to set. */
  async load() {
    try {
      const { fields, presets = {} } = await getJson("/sidestream/settings");
      Object.assign(this, { fields, presets });
    } catch (error) {
      console.warn("[SideStream] The settings could not be loaded from the server, so they are missing from the dialog.", error);
    }
  }

  /**
   * The entries for ComfyUI's dialog.
   *
   * @param {() => HTMLElement} presetSelect makes what chooses a preset, which is not stored
   * @returns {any[]}
   */
  entries(presetSelect) {
    const { preset, ...own } = PAGE_FIELDS;
    const all = [
      { ...entry("preset", preset, "Previews"), type: presetSelect },
      ...Object.entries(this.fields).map(([name, field]) => entry(name, field, "Previews")),
      ...Object.entries(own).map(([name, field]) => entry(name, field, "Panel")),
    ];
    // The page notifies before the value is there.
    const onChange = () => queueMicrotask(() => this.dispatchEvent(new CustomEvent("change")));
    // The dialog shows a group's last entry first.
    return all.map((made, index) => ({ ...made, onChange, sortOrder: all.length - index }));
  }

  /**
   * @param {string} name
   * @returns {any} the stored value, or the default if the field does not allow that; undefined if the
   *   server did not say what there is
   */
  get(name) {
    const field = this.fields[name] ?? PAGE_FIELDS[name];
    const value = settingValue(idOf(name));
    if (!field || value === undefined || value === null) return field?.default;
    if (allows(field, value)) return value;
    if (!this._complained.has(name)) {
      this._complained.add(name);
      const shown = JSON.stringify(value);
      console.warn(`[SideStream] The stored value ${shown} of the setting ${name} is invalid; ${field.default} is used instead.`);
    }
    return field.default;
  }

  /**
   * Store a value. If that is not possible, the user is told.
   *
   * @param {string} name
   * @param {unknown} value
   */
  async set(name, value) {
    this._complained.delete(name);
    try {
      await storeSetting(idOf(name), value);
    } catch {
      toast("error", t("liveSettings.notStored"));
    }
  }

  /** What the server takes, as it is now. */
  values() {
    return Object.fromEntries(Object.keys(this.fields).map((name) => [name, this.get(name)]));
  }

  /** How much the timeline may keep. */
  limits() {
    return { frames: this.get("keep_frames"), bytes: this.get("keep_megabytes") * 2 ** 20 };
  }
}

/**
 * A field's name for people, without the unit that the dialog has in it.
 *
 * @param {string} name
 * @param {Field} field
 */
export function labelOf(name, field) {
  return settingText(name, "name", field.label).replace(/\s*\([^)]*\)$/, "");
}

/**
 * @param {string} name
 * @param {Field} field
 */
export function tooltipOf(name, field) {
  return settingText(name, "tooltip", field.tooltip);
}

/**
 * What people read for one of a field's options.
 *
 * @param {string} name
 * @param {Field} field
 * @param {string} option
 */
export function optionText(name, field, option) {
  return settingText(name, `options.${option}`, field.words?.[option] ?? (/^\d+$/.test(option) ? `GPU ${option}` : option));
}

/** @returns {string} the label of what chooses a preset */
export function presetLabel() {
  return labelOf("preset", PAGE_FIELDS.preset);
}

/**
 * What to write behind a field's value: its unit, or what 0 means.
 *
 * @param {Field} field
 * @param {any} value
 */
export function unitText(field, value) {
  const { unit = "", zero } = field;
  if (value === 0 && zero) return t(`liveSettings.${zero}`);
  return COUNTS.includes(unit) ? t(`units.${unit}`) : unit;
}

/**
 * @param {Field} field
 * @param {unknown} value
 */
export function allows(field, value) {
  if (field.type === "choice") return (field.options ?? []).includes(/** @type {string} */ (value));
  const number = /** @type {number} */ (value);
  const { min = 0, least = min, max = 0 } = field;
  return Number.isInteger(value) && (number === min || number >= least) && number <= max;
}

/** @param {string} name */
function idOf(name) {
  return `SideStream.${name}`;
}

/**
 * @param {string} name
 * @param {Field} field
 * @param {string} group
 */
function entry(name, field, group) {
  const unit = field.unit && !COUNTS.includes(field.unit) ? ` (${field.unit})` : "";
  const common = {
    id: idOf(name),
    name: field.label + unit,
    tooltip: field.tooltip,
    category: ["SideStream", group, field.label],
    defaultValue: field.default,
  };
  /** @param {string} value */
  const option = (value) => ({
    value,
    // Read whenever the dialog is drawn, so in the language that the page has then.
    get text() {
      return optionText(name, field, value);
    },
  });
  return field.type === "choice"
    ? { ...common, type: "combo", options: field.options?.map(option) }
    : { ...common, type: "number", attrs: { min: field.min, max: field.max, step: 1, showButtons: true } };
}
