/** The large picture: fitted or pixel-exact, zoomed and panned, two frames on either side of a slider. */

import { elementsOf, whenEnded } from "./dom.js";
import { painterOf } from "./painting.js";
import { t } from "./strings.js";

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./watching.js").Watching} Watching */

/** Device pixels for each pixel of the picture. */
const ZOOMS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16];
const PAN_STEP = 40;
const KEPT_IN_VIEW = 24;

export class Stage {
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
    this.leftCanvas = element("canvas", { class: "ss-canvas ss-canvas-left", width: 1, height: 1 });
    this.divider = element("div", {
      class: "ss-divider",
      role: "slider",
      tabindex: 0,
      "aria-label": t("stage.split"),
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      hidden: true,
      onkeydown: (/** @type {KeyboardEvent} */ event) => this._onDividerKey(event),
      onpointerdown: (/** @type {PointerEvent} */ event) => this._dragDivider(event),
    });
    this.leftLabel = element("span", { class: "ss-label ss-label-left", hidden: true });
    this.rightLabel = element("span", { class: "ss-label ss-label-right", hidden: true });
    this.empty = element("div", { class: "ss-empty" });
    this.element = element(
      "div",
      {
        class: "ss-stage",
        role: "img",
        tabindex: 0,
        "aria-label": t("stage.empty"),
        title: t("stage.keys"),
        ondblclick: () => this.setZoom(this.zoom === null ? 1 : null),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this._onKey(event),
        onpointerdown: (/** @type {PointerEvent} */ event) => this._drag(event),
      },
      this.canvas,
      this.leftCanvas,
      this.divider,
      this.leftLabel,
      this.rightLabel,
      this.empty,
    );
    this.element.addEventListener("wheel", (event) => this._onWheel(event), { passive: false });

    // Kept, since asking the page for sizes makes it lay itself out.
    this.room = { width: 0, height: 0 };
    this.picture = { width: 1, height: 1 };
    this.painter = painterOf(this.canvas, (...drawing) => this._onDrawn(...drawing));
    this.leftPainter = painterOf(this.leftCanvas, () => {});
    const observer = new this.window.ResizeObserver(() => {
      this.room = { width: this.element.clientWidth, height: this.element.clientHeight };
      this._lay();
    });
    observer.observe(this.element);
    whenEnded(signal, () => {
      observer.disconnect();
      this.painter.close();
      this.leftPainter.close();
    });
  }

  /** Show what is watched. */
  update() {
    const { frame, against } = this.watching;
    this.painter.show(frame);
    this.leftPainter.show(against);
    if (!frame) this.element.setAttribute("aria-label", t("stage.empty"));
    this.empty.hidden = frame !== null;
    this.canvas.hidden = frame === null;
    const comparing = against !== null && frame !== null;
    for (const part of [this.leftCanvas, this.divider, this.leftLabel, this.rightLabel]) {
      part.hidden = !comparing;
    }
    if (comparing) {
      this.leftLabel.textContent = stepText(against);
      this.rightLabel.textContent = stepText(frame);
    }
    this._lay();
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

  /** CSS pixels for each pixel of the picture. */
  get scale() {
    if (this.zoom !== null) return this.zoom / this.window.devicePixelRatio;
    const { room, picture } = this;
    return Math.min(room.width / picture.width, room.height / picture.height);
  }

  /** @type {import("./painting.js").Drawn} */
  _onDrawn(frame, size, at) {
    this.picture = size;
    const { run } = frame;
    const label = t("stage.shows", { title: run.title, step: stepText(frame) });
    this.element.setAttribute("aria-label", label);
    this._lay();
    const detail = { seq: frame.seq, run: run.id, arrivedAt: frame.arrivedAt, drawnAt: at };
    this.element.dispatchEvent(new CustomEvent("sidestream-drawn", { bubbles: true, detail }));
  }

  /** Place the canvases, on whole device pixels. */
  _lay() {
    const { room, picture } = this;
    const ratio = this.window.devicePixelRatio;
    const width = picture.width * this.scale;
    const height = picture.height * this.scale;
    this.pan = {
      x: within(this.pan.x, (width + room.width) / 2 - KEPT_IN_VIEW),
      y: within(this.pan.y, (height + room.height) / 2 - KEPT_IN_VIEW),
    };
    const left = Math.round(((room.width - width) / 2 + this.pan.x) * ratio) / ratio;
    const top = Math.round(((room.height - height) / 2 + this.pan.y) * ratio) / ratio;
    for (const canvas of [this.canvas, this.leftCanvas]) {
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      canvas.style.transform = `translate(${left}px, ${top}px)`;
      canvas.classList.toggle("ss-pixels", this.zoom !== null && this.zoom >= 1);
    }
    this.leftCanvas.style.clipPath = `inset(0 ${(1 - this.split) * 100}% 0 0)`;
    this.divider.style.left = `${left + width * this.split}px`;
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.split * 100)));
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
    this.zoomBy(event.deltaY < 0 ? 1 : -1);
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

  /** @param {PointerEvent} event */
  _drag(event) {
    if (event.button !== 0 || event.target === this.divider) return;
    track(this.element, event, (moved) => this._panBy(moved.movementX, moved.movementY));
  }

  /** @param {PointerEvent} event */
  _dragDivider(event) {
    event.stopPropagation();
    track(this.divider, event, (moved) => {
      const box = this.canvas.getBoundingClientRect();
      this._setSplit((moved.clientX - box.left) / box.width);
    });
  }
}

/**
 * @param {Frame} frame
 * @returns {string}
 */
export function stepText(frame) {
  if (!frame.totalSteps) return t("readouts.frameNumber", { frame: frame.seq });
  return t("readouts.stepOf", { step: frame.step, total: frame.totalSteps });
}

/**
 * @param {number} value
 * @param {number} reach
 */
function within(value, reach) {
  return Math.max(-Math.max(0, reach), Math.min(Math.max(0, reach), value));
}

/**
 * Follow a pointer until it is let go.
 *
 * @param {HTMLElement} element
 * @param {PointerEvent} begin
 * @param {(event: PointerEvent) => void} moved
 */
function track(element, begin, moved) {
  const { pointerId } = begin;
  element.setPointerCapture(pointerId);
  const held = new AbortController();
  element.addEventListener("pointermove", moved, { signal: held.signal });
  for (const name of /** @type {const} */ (["pointerup", "pointercancel", "lostpointercapture"])) {
    element.addEventListener(name, () => held.abort(), { signal: held.signal });
  }
}
