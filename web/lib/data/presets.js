/** Presets: values of some settings that go together. Which one is chosen follows from the values. */

/** @typedef {Record<string, Record<string, any>>} Presets by name, of the same settings each */

/** The name for values that match no preset. */
export const OWN = "own";

/** Remembers the user's own values, so that one can go back to them. */
export class PresetChoice {
  /** @param {Presets} presets */
  constructor(presets) {
    this.presets = presets;
    /** @type {Record<string, any> | null} the own values seen last */
    this.own = null;
  }

  /** What can be chosen, and what cannot yet. */
  get names() {
    return [...Object.keys(this.presets), OWN];
  }

  /**
   * @param {(name: string) => any} valueOf a setting
   * @returns {string} the preset that has these values
   */
  of(valueOf) {
    const found = Object.entries(this.presets).find(([, values]) =>
      Object.entries(values).every(([name, value]) => valueOf(name) === value),
    );
    if (found) return found[0];
    const names = Object.keys(Object.values(this.presets)[0] ?? {});
    this.own = Object.fromEntries(names.map((name) => [name, valueOf(name)]));
    return OWN;
  }

  /**
   * @param {string} name of a preset
   * @param {(name: string) => any} valueOf a setting
   * @returns {Record<string, any>} what has to be changed
   */
  changes(name, valueOf) {
    const wanted = (name === OWN ? this.own : this.presets[name]) ?? {};
    return Object.fromEntries(Object.entries(wanted).filter(([each, value]) => valueOf(each) !== value));
  }
}
