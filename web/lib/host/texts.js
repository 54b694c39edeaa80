/** Texts out of what ComfyUI's /i18n gives: those of all packs, by language. Imports nothing. */

/**
 * @param {Record<string, any>} byLanguage
 * @param {readonly string[]} languages the best first
 * @param {string} path from a language's own, as in "sideStream.panel.live"
 * @returns {string | undefined}
 */
export function textAt(byLanguage, languages, path) {
  for (const language of languages) {
    let value = byLanguage[language];
    for (const part of path.split(".")) value = value?.[part];
    if (typeof value === "string") return value;
  }
  return undefined;
}

/**
 * The text with each `<name>` in it replaced. Within one from right to left a name or a number has its
 * own direction; spaces around it belong to the text.
 *
 * @param {string} text
 * @param {Record<string, string | number>} values
 * @param {"ltr" | "rtl"} direction
 */
export function filled(text, values, direction) {
  const isolated = (/** @type {string | number} */ value) =>
    direction === "rtl" ? String(value).replace(/\S(.*\S)?/s, "\u2068$&\u2069") : String(value);
  return text.replace(/<(\w+)>/g, (whole, name) => (name in values ? isolated(values[name]) : whole));
}

/** The languages of the pack that are written from right to left. */
const RIGHT_TO_LEFT = ["ar", "fa", "he"];

/**
 * @param {string} language
 * @returns {"ltr" | "rtl"}
 */
export function directionOf(language) {
  return RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";
}
