/**
 * The large picture: fitted or pixel-exact, zoomed and panned, two frames on either side of a slider.
 * While an animation plays, the still of a newer step is small in the corner.
 */

import { elementsOf, setAttribute, setText, whenEnded } from "./dom.js";
import { differences } from "./origin_text.js";
import { BatchView } from "./batch_view.js";
import { Player } from "../media/player.js";
import { rendererOf } from "../media/renderer.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {import("../data/watching.js").Watching} Watching */

/** Device pixels for each pixel of the picture. */
const ZOOMS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16];
const PAN_STEP = 40;

/** Wheel pixels that double the size: one notch of a mouse wheel. */
const WHEEL_DOUBLES = 100;
const LINE = 16;
/** Browsers report a pinch as the wheel with the Ctrl key, in small numbers. */
const PINCH = 5;
const KEPT_IN_VIEW = 24;

/** Of the still in the corner, in CSS pixels. */
const INSET_SIDE = 128;
const INSET_MARGIN = 8;

/** A pointer that moves less than this does not drag. */
const STILLNESS = 3;
const DOUBLE_CLICK_MS = 600;

/** While the contact sheet is shown. */
const NOTHING = { frame: null, against: null, image: null, playing: null };

export class Viewer {
  /**
   * @param {Document} document
   * @param {Watching} watching
   * @param {AbortSignal} signal
   */
  constructor(document, watching, signal) {
    const element = elementsOf(document);
    this.watching = watching;
    this.window = /** @type {Window & typeof globalThis} */ (document.defaultView);
    /** @type {number | null} one of ZOOMS; null fits the picture in */
    this.zoom = null;
    this.pan = { x: 0, y: 0 };
    this.split = 0.5;
    this.onZoom = () => {};

    this.canvas = element("canvas", { class: "ss-canvas", width: 1, height: 1 });
    this.animation = element("canvas", { class: "ss-canvas ss-animation", width: 1, height: 1 });
    // A video that the prompt made; it covers its own still.
    this.video = element("video", { class: "ss-canvas ss-video", controls: true, loop: true, playsinline: true, hidden: true });
    this.video.muted = true;
    this.leftCanvas = element("canvas", { class: "ss-canvas ss-canvas-left", width: 1, height: 1 });
    this.divider = element("div", {
      class: "ss-divider",
      role: "slider",
      tabindex: 0,
      "aria-label": t("viewer.split"),
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      hidden: true,
      onkeydown: (/** @type {KeyboardEvent} */ event) => this._onDividerKey(event),
      onpointerdown: (/** @type {PointerEvent} */ event) => this._dragDivider(event),
    });
    this.leftLabel = element("span", { class: "ss-label ss-label-left", hidden: true });
    this.rightLabel = element("span", { class: "ss-label ss-label-right", hidden: true });
    this.notPicture = element("span", { class: "ss-label ss-label-top", hidden: true }, t("viewer.notPicture"));
    this.moment = element("div", { class: "ss-moment", hidden: true });
    this.insetStep = element("span");
    this.inset = element(
      "button",
      {
        type: "button",
        class: "ss-inset",
        hidden: true,
        title: t("viewer.inset"),
        onclick: () => watching.showStills(true),
      },
      this.insetStep,
    );
    this.batch = new BatchView(document, watching);
    this.empty = element("div", { class: "ss-empty" });
    this.element = element(
      "div",
      {
        class: "ss-viewer",
        role: "group",
        tabindex: 0,
        "aria-label": t("viewer.empty"),
        title: t("viewer.keys"),
        ondblclick: () => this._onDoubleClick(),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this._onKey(event),
        onpointerdown: (/** @type {PointerEvent} */ event) => this._drag(event),
      },
      this.canvas,
      this.animation,
      this.video,
      this.leftCanvas,
      this.batch.cells,
      this.divider,
      this.leftLabel,
      this.rightLabel,
      this.notPicture,
      this.moment,
      this.inset,
      this.batch.chosen,
      this.empty,
    );
    this.element.addEventListener("wheel", (event) => this._onWheel(event), { passive: false });

    // Cached, since reading sizes forces a layout.
    this.viewport = { width: 0, height: 0 };
    this.still = { width: 1, height: 1 };
    this.player = new Player(this.animation);
    this.player.addEventListener("change", () => this._onPlayed(), { signal });
    /** @type {import("../data/store.js").Animation | null} the one that covers the still */
    this.played = null;
    this.animationSize = { width: 1, height: 1 };
    /** @type {Frame | null} the one on the still's canvas */
    this.drawn = null;
    this._pressedAt = 0;
    this._pressedButtonAt = -Infinity;
    /** Where a sound is, from 0 to 1. */
    this._moment = 0;
    this.renderer = rendererOf(
      this.canvas,
      (frame, drawing) => this._onDrawn(frame, drawing),
      (canvas) => (this.canvas = canvas),
    );
    this.leftRenderer = rendererOf(this.leftCanvas, () => {}, (canvas) => (this.leftCanvas = canvas));
    const observer = new this.window.ResizeObserver(() => {
      this.viewport = { width: this.element.clientWidth, height: this.element.clientHeight };
      this._lay();
      this.onZoom();
    });
    observer.observe(this.element);
    whenEnded(signal, () => {
      observer.disconnect();
      this.renderer.close();
      this.leftRenderer.close();
      this.player.close();
      this._showVideo(null);
    });
  }

  /** What `continueFrom` of a viewer takes that replaces this one. */
  get state() {
    const { zoom, pan, split, viewport, still, animationSize, player } = this;
    return { zoom, playing: player.playing, place: player.place, own: { pan, split, viewport, still, animationSize } };
  }

  /** @param {Viewer["state"]} before */
  continueFrom({ zoom, playing, place, own }) {
    Object.assign(this, own);
    this.player.continueFrom(playing, place);
    this.setZoom(zoom);
  }

  /** Show what is watched. */
  update() {
    const { frame, against, image, playing } = this.watching.sheet ? NOTHING : this.watching;
    this.player.show(playing, image);
    this.played = this.player.shown;
    this.renderer.show(frame, image);
    this.leftRenderer.show(against, image);
    if (!frame) this.drawn = null;
    this.empty.hidden = frame !== null;
    this.canvas.hidden = frame === null;
    const comparing = against !== null && frame !== null;
    for (const part of [this.leftCanvas, this.divider, this.rightLabel]) part.hidden = !comparing;
    this.leftLabel.hidden = !comparing && !this.played;
    if (comparing) {
      const [left, right] = differences(against.run, frame.run);
      setText(this.leftLabel, [...left, stepText(against)].join(" · "));
      setText(this.rightLabel, [...right, stepText(frame)].join(" · "));
    }
    this.notPicture.hidden = frame?.decoder !== "spectrogram";
    this._showVideo(comparing || !this.watching.single ? null : (frame?.video ?? null));
    this.batch.update();
    this._updateInset();
    this._sayWhatIsShown();
    this._lay();
  }

  /** @param {number | null} moment where in the map of a sound it plays now, from 0 to 1 */
  showMoment(moment) {
    const isMap = this.watching.frame?.decoder === "spectrogram";
    this.moment.hidden = moment === null || !isMap;
    if (this.moment.hidden) return;
    this._moment = moment ?? 0;
    this._lay();
  }

  /** The still of a newer step than that of the animation, small in the corner. */
  _updateInset() {
    const { frame } = this.watching;
    const { played } = this;
    const isNewer = played && frame && (frame.stage - played.stage || frame.step - played.step) > 0;
    this.inset.hidden = !isNewer;
    this.canvas.classList.toggle("ss-canvas-inset", played !== null);
    if (played && frame) {
      this.canvas.hidden = this.inset.hidden;
      setText(this.leftLabel, stepText(played));
      setText(this.insetStep, stepText(frame));
    }
  }

  /** @param {string | null} address */
  _showVideo(address) {
    if (address === this.video.getAttribute("src")) return;
    this.video.hidden = !address;
    this.video.autoplay = this.player.playing;
    if (address) return this.video.setAttribute("src", address);
    this.video.removeAttribute("src");
    this.video.load(); // nothing
  }

  /** @param {number | null} zoom null fits the picture in */
  setZoom(zoom) {
    if (zoom === null) this.pan = { x: 0, y: 0 };
    this.zoom = zoom;
    this._lay();
    this.onZoom();
  }

  /** @param {1 | -1} direction */
  zoomBy(direction) {
    const now = this.scale * this.window.devicePixelRatio;
    const next =
      direction > 0
        ? ZOOMS.find((zoom) => zoom > now * 1.01)
        : ZOOMS.findLast((zoom) => zoom < now * 0.99);
    if (next !== undefined) this.setZoom(next);
  }

  /** @param {number} pixels of a wheel's turn, or of fingers on a trackpad */
  _zoomBySome(pixels) {
    const now = this.scale * this.window.devicePixelRatio;
    const least = Math.min(now, ZOOMS[0]);
    const most = Math.max(now, ZOOMS[ZOOMS.length - 1]);
    this.setZoom(Math.min(most, Math.max(least, now * 2 ** (-pixels / WHEEL_DOUBLES))));
  }

  /** Whether one was drawn of what is watched. */
  get hasPicture() {
    return this.played !== null || this.drawn !== null;
  }

  /** The size of the large picture. */
  get picture() {
    return this.played ? this.animationSize : this.still;
  }

  /** CSS pixels for each pixel of the picture. */
  get scale() {
    if (this.zoom !== null) return this.zoom / this.window.devicePixelRatio;
    const { viewport, picture } = this;
    return Math.min(viewport.width / picture.width, viewport.height / picture.height);
  }

  /** @type {import("../media/renderer.js").Drawn} */
  _onDrawn(frame, { width, height, at }) {
    const isOtherSize = !this.drawn || width !== this.still.width || height !== this.still.height;
    this.still = { width, height };
    this.drawn = frame;
    this._sayWhatIsShown();
    this._lay();
    if (isOtherSize) this.onZoom();
    const detail = { seq: frame.seq, run: frame.run.id, arrivedAt: frame.arrivedAt, drawnAt: at };
    this.element.dispatchEvent(new CustomEvent("sidestream-drawn", { bubbles: true, detail }));
  }

  /** The player drew a picture; another animation or size needs a new layout. */
  _onPlayed() {
    const { width, height } = this.animation;
    const isSameSize = width === this.animationSize.width && height === this.animationSize.height;
    if (this.player.shown === this.played && isSameSize) return;
    this.animationSize = { width, height };
    this.update();
    this.onZoom();
  }

  _sayWhatIsShown() {
    const shown = this.played ?? this.drawn;
    const values = shown && { title: shown.run.title, step: stepText(shown) };
    const key = shown?.outputNode ? "viewer.result" : this.played ? "viewer.plays" : "viewer.shows";
    setAttribute(this.element, "aria-label", values ? t(key, values) : t("viewer.empty"));
  }

  /** Place the canvases, on whole device pixels. */
  _lay() {
    const { viewport, picture } = this;
    const ratio = this.window.devicePixelRatio;
    const width = picture.width * this.scale;
    const height = picture.height * this.scale;
    this.pan = {
      x: within(this.pan.x, (width + viewport.width) / 2 - KEPT_IN_VIEW),
      y: within(this.pan.y, (height + viewport.height) / 2 - KEPT_IN_VIEW),
    };
    const left = Math.round(((viewport.width - width) / 2 + this.pan.x) * ratio) / ratio;
    const top = Math.round(((viewport.height - height) / 2 + this.pan.y) * ratio) / ratio;
    for (const canvas of [this.canvas, this.animation, this.video, this.leftCanvas]) {
      place(canvas, left, top, width, height);
      canvas.classList.toggle("ss-pixels", this.zoom !== null && this.zoom >= 1);
    }
    this.batch.cover(this.animation);
    if (this.played) this._layInset();
    const moment = Math.round((left + width * this._moment) * ratio) / ratio;
    place(this.moment, moment, Math.max(0, top), 0, Math.min(height, viewport.height));
    this.leftCanvas.style.clipPath = `inset(0 ${(1 - this.split) * 100}% 0 0)`;
    this.divider.style.left = `${left + width * this.split}px`;
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.split * 100)));
  }

  _layInset() {
    const { viewport, still } = this;
    const side = Math.min(INSET_SIDE, viewport.width * 0.3, viewport.height * 0.3);
    const scale = side / Math.max(still.width, still.height);
    const [width, height] = [Math.round(still.width * scale), Math.round(still.height * scale)];
    const left = viewport.width - width - INSET_MARGIN;
    const top = viewport.height - height - INSET_MARGIN;
    for (const element of [this.canvas, this.inset]) place(element, left, top, width, height);
  }

  /** @param {number} split */
  _setSplit(split) {
    this.split = Math.max(0, Math.min(1, split));
    this._lay();
  }

  /** @param {WheelEvent} event */
  _onWheel(event) {
    event.preventDefault();
    event.stopPropagation();
    const before = this.scale;
    const box = this.element.getBoundingClientRect();
    const x = event.clientX - box.left - box.width / 2;
    const y = event.clientY - box.top - box.height / 2;
    this._zoomBySome(wheelPixels(event, this.viewport.height));
    const grown = this.scale / before;
    this.pan = { x: x - (x - this.pan.x) * grown, y: y - (y - this.pan.y) * grown };
    this._lay();
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    const { watching } = this;
    /** @type {Record<string, () => void>} */
    const keys = {
      "+": () => this.zoomBy(1),
      "=": () => this.zoomBy(1),
      "-": () => this.zoomBy(-1),
      0: () => this.setZoom(null),
      1: () => this.setZoom(1),
      ArrowLeft: () => watching.scrub(watching.index - 1),
      ArrowRight: () => watching.scrub(watching.index + 1),
      Home: () => watching.scrub(0),
      End: () => watching.goLive(),
    };
    if (watching.playing) {
      Object.assign(keys, {
        " ": () => this.player.toggle(),
        ",": () => this.player.step(-1),
        ".": () => this.player.step(1),
      });
    }
    if (watching.image !== null) keys.Escape = () => this.batch.back();
    const pans = /** @type {Record<string, [number, number]>} */ ({
      ArrowLeft: [PAN_STEP, 0],
      ArrowRight: [-PAN_STEP, 0],
      ArrowUp: [0, PAN_STEP],
      ArrowDown: [0, -PAN_STEP],
    });
    if (event.shiftKey && pans[event.key]) this._panBy(...pans[event.key]);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {KeyboardEvent} event */
  _onDividerKey(event) {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
    if (step === undefined) return;
    this._setSplit(this.split + step);
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  _panBy(x, y) {
    this.pan = { x: this.pan.x + x, y: this.pan.y + y };
    this._lay();
  }

  _onDoubleClick() {
    // The first of the two presses may have been on a button that is gone by now. (This event's own time is
    // that at which a busy page gets to it.)
    if (this._pressedAt - this._pressedButtonAt < DOUBLE_CLICK_MS) return;
    this.setZoom(this.zoom === null ? 1 : null);
  }

  /** @param {PointerEvent} event */
  _drag(event) {
    if (event.button !== 0 || !event.isPrimary || event.target === this.divider) return;
    this._pressedAt = event.timeStamp;
    if (/** @type {Element} */ (event.target).closest("button")) this._pressedButtonAt = event.timeStamp;
    track(this.element, event, (moved) => this._panBy(moved.movementX, moved.movementY), STILLNESS);
  }

  /** @param {PointerEvent} event */
  _dragDivider(event) {
    event.stopPropagation();
    this._pressedAt = event.timeStamp;
    track(this.divider, event, (moved) => {
      const box = this.canvas.getBoundingClientRect();
      this._setSplit((moved.clientX - box.left) / box.width);
    });
  }
}

/**
 * @param {number} value
 * @param {number} reach
 */
function within(value, reach) {
  return Math.max(-Math.max(0, reach), Math.min(Math.max(0, reach), value));
}

/**
 * @param {WheelEvent} event
 * @param {number} page in pixels
 * @returns {number} how far it was turned, in pixels
 */
function wheelPixels(event, page) {
  const unit = [1, LINE, page][event.deltaMode] ?? 1;
  return event.deltaY * unit * (event.ctrlKey ? PINCH : 1);
}

/**
 * Follow a pointer until it is released.
 *
 * @param {HTMLElement} element
 * @param {PointerEvent} begin
 * @param {(event: PointerEvent) => void} moved
 * @param {number} [stillness] follow from this distance on, and leave a click to what lies below
 */
function track(element, begin, moved, stillness = 0) {
  const { pointerId, clientX, clientY } = begin;
  const held = new AbortController();
  if (!stillness) element.setPointerCapture(pointerId);
  element.addEventListener(
    "pointermove",
    (event) => {
      if (event.pointerId !== pointerId) return; // another finger
      if (!event.buttons) return held.abort(); // released elsewhere
      const far = Math.hypot(event.clientX - clientX, event.clientY - clientY) > stillness;
      if (far && !element.hasPointerCapture(pointerId)) element.setPointerCapture(pointerId);
      if (element.hasPointerCapture(pointerId)) moved(event);
    },
    { signal: held.signal },
  );
  for (const name of /** @type {const} */ (["pointerup", "pointercancel", "lostpointercapture"])) {
    element.addEventListener(
      name,
      (event) => {
        // The part that a finger touched first has it until then, and loses it to the element.
        const isPassedOn = name === "lostpointercapture" && event.target !== element;
        if (event.pointerId === pointerId && !isPassedOn) held.abort();
      },
      { signal: held.signal },
    );
  }
}

/**
 * @param {HTMLElement} element
 * @param {number} left
 * @param {number} top
 * @param {number} width
 * @param {number} height
 */
function place(element, left, top, width, height) {
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
  element.style.transform = `translate(${left}px, ${top}px)`;
}
