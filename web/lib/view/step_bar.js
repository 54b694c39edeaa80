/**
 * All steps of a run in one bar: how far it is, the pictures so far as small squares, and a slider over
 * them. Each step has its place from the beginning, whether or not it is shown. Under the pointer stands
 * the picture that a click would show.
 */

import { elementsOf, keepFromPage, setAttribute, setText, svg, whenEnded } from "./dom.js";
import { PageRenderer } from "../media/renderer.js";
import { inPlaces, nearest, slotCount, slotOf, slotsReached, stepSlots } from "../data/slots.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {import("../data/store.js").Run} Run */

const LEAST_SIDE = 40; // of a small square, in CSS pixels
const TRACK = 8; // the height of the marks of the steps below them
const LEAST_THUMB = 4;
const INTERVAL_MS = 250;

/** Of the picture under the pointer. */
const HOVER_SIDE = 160;
const MARGIN = 6;

/** The marks of the track, with what they stand for. Each is a path in units of one step. */
const MARKS = /** @type {const} */ (["ahead", "unseen", "seen", "animated", "result"]);

export class StepBar {
  /**
   * @param {Document} document
   * @param {import("../data/watching.js").Watching} watching
   * @param {AbortSignal} signal
   */
  constructor(document, watching, signal) {
    const element = elementsOf(document);
    this.watching = watching;
    this.window = /** @type {Window & typeof globalThis} */ (document.defaultView);
    this.canvas = element("canvas", { class: "ss-thumbnails", "aria-hidden": "true" });
    this.marks = MARKS.map((name) => svg(document, "path", { class: `ss-mark-${name}` }));
    const look = { class: "ss-track", preserveAspectRatio: "none", "aria-hidden": "true" };
    this.track = svg(document, "svg", look, ...this.marks);
    this.compared = element("div", { class: "ss-compared", hidden: true });
    this.slider = element("input", {
      type: "range",
      class: "ss-scrubber",
      min: 0,
      max: 0,
      step: 1,
      "aria-label": t("timeline.scrubber"),
      oninput: () => watching.scrub(nearest(watching.pictures, this.slider.valueAsNumber)),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this._onKey(event),
      onpointermove: (/** @type {PointerEvent} */ event) => this._hover(event),
      onpointerleave: () => this._leave(),
    });
    const hoverCanvas = element("canvas", { width: 1, height: 1 });
    this.hoverText = element("span");
    this.hover = element("div", { class: "ss-hover", popover: "manual", "aria-hidden": "true" }, hoverCanvas, this.hoverText);
    this.hoverRenderer = new PageRenderer(hoverCanvas, () => this._placeHover(), HOVER_SIDE);
    this.element = element(
      "div",
      { class: "ss-scrubber-box" },
      this.canvas,
      this.track,
      this.compared,
      this.slider,
      this.hover,
    );
    this.width = 0;
    this.pointer = 0;
    this._timer = 0;
    this._drawn = 0;
    this._asked = false;
    const observer = new this.window.ResizeObserver(() => {
      this.width = this.element.clientWidth;
      this.update();
    });
    observer.observe(this.element);
    whenEnded(signal, () => {
      clearTimeout(this._timer);
      observer.disconnect();
    });
  }

  /** How many squares there is room for; they and the bar's height depend on its width alone. */
  get places() {
    return Math.max(1, Math.floor(this.width / LEAST_SIDE));
  }

  /** Show how far the watched run is; its small pictures follow soon. */
  update() {
    const { watching } = this;
    const { run, frame, against, pictures } = watching;
    const count = run ? Math.max(1, slotCount(run)) : 1;
    this.slider.max = String(count - 1);
    this.slider.value = String(frame ? slotOf(frame) : 0);
    this.slider.disabled = pictures.length < 2 || !watching.single;
    this.slider.setAttribute("aria-valuetext", frame ? stepText(frame) : "");
    const { style } = this.element;
    style.setProperty("--ss-side", `${Math.max(LEAST_SIDE, this.width / this.places)}px`);
    style.setProperty("--ss-slot", `${Math.max(LEAST_THUMB, this.width / count)}px`);
    this.compared.hidden = against?.run !== run || !against;
    if (against) this.compared.style.left = `${(slotOf(against) / count) * 100}%`;
    this._mark(run, pictures, count);
    if (this.slider.disabled) this._leave();
    this._drawSoon();
  }

  /**
   * @param {Run | null} run
   * @param {Frame[]} pictures
   * @param {number} count
   */
  _mark(run, pictures, count) {
    const seen = new Map(pictures.map((picture) => [slotOf(picture), picture]));
    const steps = run ? stepSlots(run) : 0;
    const reached = run ? slotsReached(run) : 0;
    const drawn = this.marks.map(() => "");
    for (let slot = 0; run && slot < count; slot++) {
      const picture = seen.get(slot);
      const kind = slot >= steps && picture ? "result" : picture ? "seen" : slot < reached ? "unseen" : "ahead";
      drawn[MARKS.indexOf(kind)] += `M${slot + 0.04} 0h.92v1h-.92z`;
      if (picture?.animation) drawn[MARKS.indexOf("animated")] += `M${slot + 0.3} .25h.4v.5h-.4z`;
    }
    this.track.setAttribute("viewBox", `0 0 ${count} 1`);
    drawn.forEach((path, i) => setAttribute(this.marks[i], "d", path));
  }

  _drawSoon() {
    this._asked = true;
    if (this._timer) return;
    const wait = Math.max(0, this._drawn + INTERVAL_MS - performance.now());
    this._timer = setTimeout(() => void this._draw(), wait);
  }

  /** Draw the small pictures: one for each step where there is room, else the newest of each place. */
  async _draw() {
    this._asked = false;
    const { canvas, places } = this;
    const { run, pictures } = this.watching;
    const ratio = this.window.devicePixelRatio;
    const count = run ? Math.max(1, slotCount(run)) : 1;
    const shown = inPlaces(pictures, count, Math.min(places, count));
    const side = Math.round(Math.max(LEAST_SIDE, this.width / places) * ratio);
    const { thumbnails } = this.watching.store;
    const made = await Promise.all(
      [...shown].map(async ([place, frame]) => ({ place, picture: await thumbnails.of(frame, side) })),
    );
    this._timer = 0;
    this._drawn = performance.now();
    const width = Math.round(this.width * ratio);
    if (canvas.width !== width || canvas.height !== side) Object.assign(canvas, { width, height: side });
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.clearRect(0, 0, width, side);
    const room = width / Math.min(places, count);
    for (const { place, picture } of made) {
      if (picture?.width) drawSquare(context, picture, Math.round((place + 0.5) * room - side / 2), side);
    }
    if (this._asked) this._drawSoon(); // something changed while pictures were made
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    keepFromPage(event);
    const { watching } = this;
    const { index, pictures } = watching;
    const page = Math.max(2, Math.round(pictures.length / 10));
    /** @type {Record<string, number>} */
    const to = {
      ArrowLeft: index - 1,
      ArrowDown: index - 1,
      ArrowRight: index + 1,
      ArrowUp: index + 1,
      PageDown: index - page,
      PageUp: index + page,
      Home: 0,
      End: pictures.length - 1,
    };
    if (to[event.key] === undefined) return;
    event.preventDefault(); // by the browser's own way it would stop where nothing was shown
    watching.scrub(to[event.key]);
  }

  /** @param {PointerEvent} event */
  _hover(event) {
    const { pictures, run } = this.watching;
    if (event.pointerType === "touch" || !run || this.slider.disabled) return this._leave();
    const box = this.element.getBoundingClientRect();
    this.pointer = event.clientX;
    const slot = Math.floor(((event.clientX - box.left) / box.width) * slotCount(run));
    const frame = pictures[nearest(pictures, slot)];
    setText(this.hoverText, stepText(frame));
    this.hoverRenderer.show(frame, this.watching.image);
    this.hover.showPopover();
    this._placeHover();
  }

  /** Above the bar, over the pointer, within the window. */
  _placeHover() {
    const box = this.element.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.hover;
    const left = Math.max(MARGIN, Math.min(this.pointer - width / 2, this.window.innerWidth - width - MARGIN));
    const above = box.top - height - MARGIN;
    this.hover.style.left = `${left}px`;
    this.hover.style.top = `${above >= MARGIN ? above : box.bottom + MARGIN}px`;
  }

  _leave() {
    this.hover.hidePopover();
    this.hoverRenderer.show(null);
  }
}

/**
 * The middle of a picture, as a square.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {ImageBitmap} picture
 * @param {number} left
 * @param {number} side
 */
function drawSquare(context, picture, left, side) {
  const { width, height } = picture;
  const part = Math.min(width, height);
  context.drawImage(picture, (width - part) / 2, (height - part) / 2, part, part, left, 0, side, side);
}
