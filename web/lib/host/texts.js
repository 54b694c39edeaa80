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
 * @param {string} text
 * @param {Record<string, string | number>} values for each `<name>` in it
 */
export function filled(text, values) {
  return text.replace(/<(\w+)>/g, (whole, name) => String(values[name] ?? whole));
}
