/** The pack's own words, in the language of the page, from `locales/` through ComfyUI's /i18n. */

import { api, onSetting, settingValue } from "./comfy.js";
import { directionOf, filled, textAt } from "./texts.js";

const LANGUAGE = "Comfy.Locale";

/** @type {Record<string, any>} */
let byLanguage = {};

/** Fetch the translations. Without them the keys themselves are shown. */
export async function loadStrings() {
  try {
    byLanguage = /** @type {Record<string, any>} */ (await api.getCustomNodesI18n());
  } catch (error) {
    console.warn("[SideStream] The translations could not be loaded, so keys are shown instead.", error);
  }
}

/**
 * The language of the pack's texts and their direction, as attributes of an element that holds them:
 * ComfyUI's page itself runs from left to right in every language.
 */
export function writing() {
  const lang = languages().find((language) => byLanguage[language]?.sideStream) ?? "en";
  return { lang, dir: directionOf(lang) };
}

/**
 * @param {() => void} act called when the page has taken another language, until `signal` aborts
 * @param {AbortSignal} signal
 */
export function onLanguage(act, signal) {
  onSetting(LANGUAGE, act, signal);
}

/**
 * A number with its unit, or a size, in the order that it has in every language.
 *
 * @param {string} text
 */
export function leftToRight(text) {
  return writing().dir === "rtl" ? `\u2066${text}\u2069` : text;
}

/**
 * The text for `key`, with each `<name>` in it replaced.
 *
 * @param {string} key such as "panel.live", below `sideStream` in locales/<language>/main.json
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  return filled(lookUp(`sideStream.${key}`) ?? key, values, writing().dir);
}

/**
 * Which step a picture is of.
 *
 * @param {{ seq: number, stage: number, step: number, totalSteps: number, outputNode?: string }} picture
 */
export function stepText({ seq, stage, step, totalSteps, outputNode }) {
  if (outputNode) return t("timeline.result");
  if (!totalSteps) return t("stats.frameNumber", { frame: seq });
  const text = t("stats.stepOf", { step, total: totalSteps });
  return stage > 1 ? t("stats.stageOf", { stage, step: text }) : text;
}

/**
 * The translated name or tooltip of a setting or its options, or what the server calls it.
 *
 * @param {string} name a field of `GET /sidestream/settings`
 * @param {string} part `name`, `tooltip` or `options.` and one
 * @param {string} fallback
 * @returns {string}
 */
export function settingText(name, part, fallback) {
  return lookUp(`settings.SideStream_${name}.${part}`) ?? fallback;
}

/**
 * @param {string} path
 * @returns {string | undefined}
 */
function lookUp(path) {
  return textAt(byLanguage, languages(), path);
}

/** The page's language, then its base, then English. */
function languages() {
  const language = String(settingValue(LANGUAGE) ?? "en");
  return [language, language.split("-")[0], "en"];
}
