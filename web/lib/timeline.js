/** The kept frames of a run: a film strip with a scrubber on it, earlier runs, compare, save. */

import { elementsOf, iconButton, setText, whenEnded } from "./dom.js";
import { toast } from "./comfy.js";
import { saveAnimation, saveFrame, savePlayed, saveRun } from "./saving.js";
import { stepText } from "./stage.js";
import { isStandIn } from "./store.js";
import { t } from "./strings.js";

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").Run} Run */
/** @typedef {import("./watching.js").Watching} Watching */

const FILM_HEIGHT = 40;
const FILM_INTERVAL_MS = 250;
const THUMB_WIDTH = 4; // of the scrubber, in CSS pixels

/** @type {WeakMap<Frame, Promise<ImageBitmap | null>>} */
const thumbnails = new WeakMap();

export class Timeline {
  /**
   * @param {Document} document
   * @param {Watching} watching
   * @param {import("./player.js").Player} player the stage's
   * @param {AbortSignal} signal
   */
  constructor(document, watching, player, signal) {
    const element = elementsOf(document);
    this.make = element;
    this.watching = watching;
    this.player = player;
    this.window = /** @type {Window & typeof globalThis} */ (document.defaultView);
    this._filmTimer = 0;
    this._filmDrawn = 0;
    /** @type {Run[]} those that the list of runs shows */
    this._listed = [];

    this.film = element("canvas", { class: "ss-film", "aria-hidden": "true" });
    this.scrubber = element("input", {
      type: "range",
      class: "ss-scrubber",
      min: 0,
      max: 0,
      step: 1,
      "aria-label": t("timeline.scrubber"),
      oninput: () => watching.scrub(Number(this.scrubber.value)),
      onkeydown: keepFromPage,
    });
    this.runs = element("select", {
      class: "ss-runs",
      "aria-label": t("timeline.runs"),
      title: t("timeline.runs"),
      onchange: () => this._chooseRun(),
      onkeydown: keepFromPage,
    });
    this.live = element(
      "button",
      { type: "button", class: "ss-live-button", title: t("timeline.liveTooltip"), onclick: () => watching.goLive() },
      t("timeline.live"),
    );
    this.compare = iconButton(element, "arrows-h", t("timeline.compare"), () =>
      watching.compare(watching.against === null),
    );
    const step = (/** @type {number} */ by) => () => watching.scrub(watching.index + by);
    this.back = iconButton(element, "step-backward", t("timeline.back"), step(-1));
    this.forth = iconButton(element, "step-forward", t("timeline.forth"), step(1));
    this.burn = element("input", { type: "checkbox" });
    this.menu = this._saveMenu();
    const forget = iconButton(element, "trash", t("timeline.forget"), () => watching.store.clear());
    this.element = element(
      "section",
      { class: "ss-timeline", "aria-label": t("timeline.label") },
      element("div", { class: "ss-film-box" }, this.film, this.scrubber),
      element(
        "div",
        { class: "ss-row" },
        this.live,
        this.back,
        this.forth,
        this.compare,
        element("span", { class: "ss-space" }),
        this.menu,
        forget,
      ),
      this.runs,
    );
    whenEnded(signal, () => clearTimeout(this._filmTimer));
    const observer = new this.window.ResizeObserver(() => this._filmSoon());
    observer.observe(this.film);
    whenEnded(signal, () => observer.disconnect());
  }

  /** Show the run that is watched. */
  update() {
    const { watching } = this;
    const { run, frame } = watching;
    const count = run?.frames.length ?? 0;
    this.scrubber.max = String(Math.max(0, count - 1));
    this.scrubber.value = String(watching.index);
    this.scrubber.disabled = count < 2;
    this.scrubber.setAttribute("aria-valuetext", frame ? stepText(frame) : "");
    this.live.setAttribute("aria-pressed", String(watching.isLive));
    this.live.classList.toggle("ss-on-air", watching.isLive && watching.store.live);
    this.compare.setAttribute("aria-pressed", String(watching.against !== null));
    /** @type {HTMLElement} */ (this.saveAnimation).hidden = !watching.animation;
    this.compare.disabled = this.back.disabled = this.forth.disabled = !frame;
    this._listRuns();
    this._filmSoon();
  }

  _saveMenu() {
    const element = this.make;
    /** @param {string} name @param {() => Promise<void>} save */
    const item = (name, save) =>
      element(
        "button",
        { type: "button", class: "ss-menu-item", "data-save": name, onclick: () => void this._save(save) },
        t(`timeline.save.${name}`),
      );
    this.saveLabel = element("span", {}, t("timeline.save.label"));
    this.saveAnimation = item("animation", async () => {
      if (this.watching.animation) saveAnimation(this.watching.animation);
    });
    return element(
      "details",
      {
        class: "ss-menu",
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (event.key !== "Escape") return;
          this.menu.open = false;
          this.menu.querySelector("summary")?.focus();
          event.stopPropagation();
        },
      },
      element(
        "summary",
        { class: "ss-icon-button ss-menu-button", title: t("timeline.save.tooltip") },
        element("i", { class: "pi pi-download", "aria-hidden": "true" }),
        this.saveLabel,
      ),
      element(
        "div",
        { class: "ss-menu-list" },
        item("png", () => this._savePicture()),
        this.saveAnimation,
        item("webp", () => this._saveRun("webp")),
        item("webm", () => this._saveRun("webm")),
        element("label", { class: "ss-menu-item" }, this.burn, t("timeline.save.burn")),
      ),
    );
  }

  get _wishes() {
    return { burn: this.burn.checked, image: this.watching.image };
  }

  /** The large picture. */
  async _savePicture() {
    const { frame } = this.watching;
    if (this.player.shown) await savePlayed(this.player, this._wishes);
    else if (frame) await saveFrame(frame, this._wishes);
  }

  /** @param {"webp" | "webm"} kind */
  async _saveRun(kind) {
    const all = this.watching.run?.frames ?? [];
    const stills = all.filter((frame) => !isStandIn(frame));
    const frames = stills.length ? stills : [...all];
    if (!frames.length) return;
    await saveRun(frames, kind, this._wishes, (done) => {
      setText(/** @type {Element} */ (this.saveLabel), `${done}/${frames.length}`);
    });
  }

  /** @param {() => Promise<void>} save */
  async _save(save) {
    this.menu.open = false;
    try {
      await save();
    } catch (error) {
      toast("error", t("timeline.save.failed", { why: String(error) }));
    }
    setText(/** @type {Element} */ (this.saveLabel), t("timeline.save.label"));
  }

  _listRuns() {
    const kept = this.watching.store.runs.filter((run) => run.frames.length > 0).reverse();
    const isSame = kept.length === this._listed.length && kept.every((run, i) => run === this._listed[i]);
    if (!isSame) {
      this._listed = kept;
      this.runs.replaceChildren(...kept.map((run) => this.make("option", { value: run.id })));
    }
    kept.forEach((run, i) => setText(this.runs.options[i], runText(run)));
    const shown = this.watching.run?.id ?? "";
    if (this.runs.value !== shown) this.runs.value = shown;
    this.runs.hidden = kept.length < 2;
  }

  _chooseRun() {
    const run = this._listed[this.runs.selectedIndex];
    if (run?.live) this.watching.pin(run.displayNodeId);
    else if (run) this.watching.choose(run);
  }

  _filmSoon() {
    if (this._filmTimer) return;
    const wait = Math.max(0, this._filmDrawn + FILM_INTERVAL_MS - performance.now());
    this._filmTimer = setTimeout(() => void this._drawFilm(), wait);
  }

  async _drawFilm() {
    const frames = this.watching.run?.frames ?? [];
    const { film } = this;
    const ratio = this.window.devicePixelRatio;
    const width = Math.round(film.clientWidth * ratio);
    const height = Math.round(FILM_HEIGHT * ratio);
    const newest = frames.at(-1);
    const aspect = newest?.width ? newest.width / newest.height : 1;
    const tile = Math.max(8, height * aspect);
    const shown = spread(frames, Math.max(1, Math.floor(width / tile)));
    const pictures = await Promise.all(shown.map((frame) => thumbnail(frame, height)));
    this._filmTimer = 0;
    this._filmDrawn = performance.now();
    if (film.width !== width || film.height !== height) {
      film.width = width;
      film.height = height;
    }
    const context = /** @type {CanvasRenderingContext2D} */ (film.getContext("2d"));
    context.clearRect(0, 0, width, height);
    const slot = width / Math.max(shown.length, 1);
    pictures.forEach((picture, i) => {
      if (picture) drawCovering(context, picture, i * slot, slot, height);
    });
    markAnimations(context, frames, width, ratio);
  }
}

/**
 * Keep keys that a control uses from the page's own bindings.
 *
 * @param {KeyboardEvent} event
 */
export function keepFromPage(event) {
  event.stopPropagation();
}

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** @param {Run} run */
function runText(run) {
  const time = clock.format(run.startedAt);
  return t("timeline.runText", { title: run.title, time, count: run.frames.length });
}

/**
 * @param {Frame[]} frames
 * @param {number} count
 * @returns {Frame[]} at most `count` of them, evenly, with the first and the last
 */
function spread(frames, count) {
  if (frames.length <= count) return [...frames];
  if (count === 1) return [frames[frames.length - 1]];
  return Array.from({ length: count }, (_, i) => frames[Math.round((i * (frames.length - 1)) / (count - 1))]);
}

/**
 * A mark at the place of every frame that has an animation.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame[]} frames
 * @param {number} width
 * @param {number} ratio device pixels for each CSS pixel
 */
function markAnimations(context, frames, width, ratio) {
  const last = Math.max(frames.length - 1, 1);
  const radius = 2.5 * ratio;
  context.fillStyle = "#fff";
  context.strokeStyle = "rgb(0 0 0 / 0.7)";
  context.lineWidth = ratio;
  frames.forEach((frame, i) => {
    if (!frame.animation) return;
    const x = THUMB_WIDTH * ratio * 0.5 + (i / last) * (width - THUMB_WIDTH * ratio);
    context.beginPath();
    context.arc(x, radius * 2, radius, 0, 2 * Math.PI);
    context.stroke();
    context.fill();
  });
}

/**
 * @param {Frame} frame
 * @param {number} height
 */
function thumbnail(frame, height) {
  let made = thumbnails.get(frame);
  if (!made) {
    made = createImageBitmap(frame.blob, { resizeHeight: height, resizeQuality: "medium" }).catch(() => null);
    thumbnails.set(frame, made);
  }
  return made;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {ImageBitmap} picture
 * @param {number} left
 * @param {number} width
 * @param {number} height
 */
function drawCovering(context, picture, left, width, height) {
  const scale = Math.max(width / picture.width, height / picture.height);
  const [w, h] = [width / scale, height / scale];
  const [x, y] = [(picture.width - w) / 2, (picture.height - h) / 2];
  context.drawImage(picture, x, y, w, h, left, 0, Math.ceil(width), height);
}
