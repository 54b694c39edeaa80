/**
 * The watch page: picture, bar, time left. It stands outside of ComfyUI's page, which it must not import,
 * and also in browsers that are some years old, as in OBS.
 */

import { clockText, Pace } from "../data/pace.js";
import { WatchConnection } from "../data/watch_connection.js";
import { directionOf, filled, textAt } from "../host/texts.js";
import { newestOnly } from "../media/newest.js";
import { setText } from "./dom.js";
import { ScreenLock } from "./screen_lock.js";

/** @typedef {import("../data/watch_connection.js").Told} Told */
/** @typedef {"open" | "lost" | "refused" | "full"} State of the connection */
/** @typedef {(key: string, values?: Record<string, string | number>) => string} Translate */

/** @param {Window} view with watch.html in it */
export async function openWatchPage(view) {
  const { document, location } = view;
  setBackground(document, new URLSearchParams(location.search).get("background") ?? "");
  const t = await translations(document);
  document.title = t("watch.title");
  const page = new WatchPage(view, t);
  const address = new URL("../../api/sidestream/watch", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = address.hash = "";
  const connection = new WatchConnection(address, location.hash.slice(1));
  page.show(connection);
  connection.open();
  view.addEventListener("hashchange", () => location.reload());
  for (const name of ["visibilitychange", "online"]) {
    view.addEventListener(name, () => document.hidden || connection.open());
  }
}

class WatchPage {
  /**
   * @param {Window} view
   * @param {Translate} t
   */
  constructor(view, t) {
    const { document } = view;
    this.t = t;
    this.isOverlay = document.documentElement.classList.contains("own-background");
    this.picture = /** @type {HTMLImageElement} */ (document.querySelector("img"));
    this.message = /** @type {HTMLElement} */ (document.querySelector("[role=status]"));
    this.bar = /** @type {HTMLProgressElement} */ (document.querySelector("progress"));
    this.left = /** @type {HTMLElement} */ (document.querySelector("footer span"));
    this.screenLock = new ScreenLock(view);
    this.pace = new Pace();
    /** @type {Told | null} what was told last */
    this.told = null;
    /** @type {State} */
    this.state = "open";
    this._timer = 0;
    this.picture.alt = t("watch.title");
    this.bar.setAttribute("aria-label", t("stats.progress"));
    addFullScreen(view, t);
  }

  /** @param {WatchConnection} connection */
  show(connection) {
    const draw = newestOnly((/** @type {Blob} */ blob) => this._draw(blob));
    /** @param {string} name @param {(detail: any) => void} hear */
    const on = (name, hear) => connection.addEventListener(name, (/** @type {any} */ { detail }) => hear(detail));
    on("picture", draw);
    on("progress", (told) => this._advance(told));
    on("state", (state) => this._setState(state));
  }

  /** @param {Told} told */
  _advance(told) {
    const { told: before } = this;
    if (told.run !== before?.run || told.stage !== before?.stage) this.pace = new Pace();
    this.told = told;
    if (told.run !== null) {
      this.pace.reach(told.step, performance.now());
      this.screenLock.extend();
    }
    this._update();
  }

  /** @param {State} state */
  _setState(state) {
    this.state = state;
    if (state !== "open") this.told = null;
    if (state === "refused") this._clear(); // it is not for this page any more
    this._update();
  }

  _update() {
    const { told, t, bar } = this;
    const running = told !== null && told.run !== null;
    clearInterval(this._timer);
    this._timer = running ? setInterval(() => this._updateTime(), 1000) : 0;
    setText(this.message, this._messageText(running));
    bar.hidden = !running;
    if (running) {
      bar.max = Math.max(1, told.total_steps);
      bar.value = told.total_steps ? told.step : 0;
      bar.setAttribute("aria-valuetext", t("stats.stepOf", { step: told.step, total: told.total_steps }));
    }
    this._updateTime();
  }

  _updateTime() {
    const { told, t } = this;
    const left = told && told.run !== null ? this.pace.left(told.total_steps, performance.now()) : null;
    setText(this.left, left === null ? "" : t("watch.left", { time: clockText(left) }));
  }

  /** @param {boolean} running */
  _messageText(running) {
    if (this.state !== "open") return this.t(`watch.${this.state}`);
    if (running) return this.picture.hidden || this.told?.step ? "" : this.t("viewer.firstStep");
    return this.told && this.picture.hidden && !this.isOverlay ? this.t("watch.idle") : "";
  }

  /** @param {Blob} blob */
  async _draw(blob) {
    const { picture } = this;
    const before = picture.src;
    const address = URL.createObjectURL(blob);
    await new Promise((resolve) => {
      picture.onload = picture.onerror = resolve;
      picture.src = address;
    });
    if (before) URL.revokeObjectURL(before);
    picture.hidden = this.state === "refused";
    this._update();
    await new Promise((resolve) => requestAnimationFrame(resolve)); // none while the page is hidden
  }

  _clear() {
    const { picture } = this;
    picture.hidden = true;
    URL.revokeObjectURL(picture.src);
    picture.removeAttribute("src");
    picture.dispatchEvent(new Event("error")); // browsers send none for what is still being loaded
  }
}

/**
 * A background colour, or none, for a page that is laid over others.
 *
 * @param {Document} document
 * @param {string} color as in CSS; also six hexadecimal digits alone
 */
function setBackground(document, color) {
  const known = /^[\da-f]{6}$/i.test(color) ? `#${color}` : color;
  if (!known || !CSS.supports("color", known)) return;
  document.documentElement.classList.add("own-background");
  document.body.style.background = known;
}

/**
 * A button, and the key F, where the browser has full screen for pages.
 *
 * @param {Window} view
 * @param {Translate} t
 */
function addFullScreen(view, t) {
  const { document } = view;
  const button = /** @type {HTMLButtonElement} */ (document.querySelector("button"));
  button.hidden = !document.fullscreenEnabled;
  if (button.hidden) return;
  const name = () => {
    button.title = t(document.fullscreenElement ? "viewer.leaveFullScreen" : "viewer.fullScreen");
    button.setAttribute("aria-label", button.title);
  };
  const toggle = () => {
    const done = document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
    done.catch(() => {}); // the browser refused; it stays as it is
  };
  name();
  button.addEventListener("click", toggle);
  view.addEventListener("fullscreenchange", name);
  view.addEventListener("keydown", ({ key, ctrlKey, metaKey, altKey }) => {
    if (key.toLowerCase() === "f" && !ctrlKey && !metaKey && !altKey) toggle();
  });
}

/**
 * @param {Document} document which gets the language that is found
 * @returns {Promise<Translate>} texts in the language of this browser, as nobody's settings are known here
 */
async function translations(document) {
  /** @type {Record<string, any>} */
  let byLanguage = {};
  try {
    byLanguage = await (await fetch(new URL("../../api/i18n", document.location.href))).json();
  } catch (error) {
    console.warn("[SideStream] The translations could not be loaded, so keys are shown instead.", error);
  }
  const asked = navigator.languages.flatMap((language) => [language, language.split("-")[0]]);
  const languages = [...asked, "en"].filter((language) => textAt(byLanguage, [language], "sideStream.watch.title"));
  const lang = languages[0] ?? "en";
  const dir = directionOf(lang);
  Object.assign(document.documentElement, { lang, dir });
  return (key, values = {}) => filled(textAt(byLanguage, languages, `sideStream.${key}`) ?? key, values, dir);
}
