/** Frames into canvases; into the large ones on a worker, where the browser can hand canvases over. */

import { drawPart, withBitmap } from "./bitmaps.js";
import { newestOnly } from "./newest.js";

/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {{ width: number, height: number, at: number }} Drawing size of what was drawn, and when */
/** @typedef {(frame: Frame, drawing: Drawing) => void} Drawn called after each drawing */

const WORKER = new URL("render_worker.js", import.meta.url);

/** @type {Worker | null} alive while any canvas is its own */
let worker = null;
/** Whether the browser refused the worker, as a page's security policy may make it. */
let isRefused = false;
/** @type {Map<number, WorkerRenderer>} */
const renderers = new Map();
let lastId = 0;

/**
 * A renderer on the worker if possible.
 *
 * @param {HTMLCanvasElement} canvas takes the size of the picture
 * @param {Drawn} drawn
 * @param {(canvas: HTMLCanvasElement) => void} replaced called with a canvas that replaces it
 * @returns {Renderer}
 */
export function rendererOf(canvas, drawn, replaced) {
  try {
    if (!isRefused) return new WorkerRenderer(canvas, drawn, replaced);
  } catch {
    endIdleWorker();
  }
  return new PageRenderer(canvas, drawn);
}

/** Draws the newest of the frames shown to it. */
class Renderer {
  constructor() {
    /** @type {Frame | null} */
    this.frame = null;
    /** @type {number | null} */
    this.image = null;
  }

  /**
   * @param {Frame | null} frame null for nothing
   * @param {number | null} [image] of the batch, to be shown alone
   */
  show(frame, image = null) {
    if (frame === this.frame && image === this.image) return;
    this.frame = frame;
    this.image = image;
    if (frame) this._draw(frame, image);
    else this._clear();
  }

  close() {
    this.show(null);
  }

  /** @abstract @param {Frame} _frame @param {number | null} _image */
  _draw(_frame, _image) {}

  /** @abstract */
  _clear() {}
}

/** Draws on the page. */
export class PageRenderer extends Renderer {
  /**
   * @param {HTMLCanvasElement} canvas takes the size of the picture
   * @param {Drawn} [drawn]
   * @param {number} [maxSide] where a small picture is enough
   */
  constructor(canvas, drawn = () => {}, maxSide = Infinity) {
    super();
    this.canvas = canvas;
    this._next = newestOnly(async (/** @type {{ frame: Frame, image: number | null }} */ { frame, image }) => {
      await withBitmap(frame, (bitmap) => {
        if (!this.frame) return;
        drawPart(canvas, bitmap, frame.cells, image, maxSide);
        drawn(frame, { width: canvas.width, height: canvas.height, at: performance.now() });
      });
    });
  }

  /** @type {Renderer["_draw"]} */
  _draw(frame, image) {
    this._next({ frame, image });
  }

  _clear() {
    this.canvas.width = this.canvas.height = 1;
  }
}

/** Hands its canvas over to the worker, which keeps its last picture until the next one. */
class WorkerRenderer extends Renderer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Drawn} drawn
   * @param {(canvas: HTMLCanvasElement) => void} replaced
   */
  constructor(canvas, drawn, replaced) {
    super();
    worker ??= startWorker(); // first, since a transferred canvas cannot be drawn on here
    const handedOver = canvas.transferControlToOffscreen();
    this.canvas = canvas;
    this.drawn = drawn;
    this.replaced = replaced;
    /** @type {PageRenderer | null} if the browser refused the worker after all */
    this.instead = null;
    this.id = ++lastId;
    /** @type {Map<number, Frame>} with the worker, by number */
    this.sent = new Map();
    this.number = 0;
    renderers.set(this.id, this);
    worker.postMessage({ id: this.id, canvas: handedOver }, [handedOver]);
  }

  /** @type {Renderer["_draw"]} */
  _draw(frame, image) {
    if (this.instead) return this.instead.show(frame, image);
    this.sent.set(++this.number, frame);
    const { blob, cells } = frame;
    worker?.postMessage({ id: this.id, picture: { blob, cells, image, number: this.number } });
  }

  _clear() {
    this.instead?.show(null);
    this.sent.clear();
  }

  /** @param {Drawing & { number: number, failed?: boolean }} told */
  onDrawn({ number, width, height, at, failed }) {
    const frame = this.sent.get(number);
    // Earlier ones were drawn or replaced.
    for (const older of this.sent.keys()) if (older <= number) this.sent.delete(older);
    if (frame && !failed) this.drawn(frame, { width, height, at: at - performance.timeOrigin });
  }

  /** Go on without the worker, on another canvas: a transferred one cannot be taken back. */
  giveUp() {
    const canvas = /** @type {HTMLCanvasElement} */ (this.canvas.cloneNode());
    this.canvas.replaceWith(canvas);
    this.replaced(canvas);
    this.sent.clear();
    this.instead = new PageRenderer(canvas, this.drawn);
    this.instead.show(this.frame, this.image);
  }

  close() {
    super.close();
    renderers.delete(this.id);
    worker?.postMessage({ id: this.id, close: true });
    endIdleWorker();
  }
}

function endIdleWorker() {
  if (renderers.size > 0) return;
  worker?.terminate();
  worker = null;
}

function startWorker() {
  const started = new Worker(WORKER, { type: "module" });
  let works = false;
  started.onmessage = ({ data }) => {
    works = true;
    renderers.get(data.id)?.onDrawn(data);
  };
  started.onerror = () => {
    if (works || isRefused) return; // it goes on after an error
    isRefused = true;
    for (const renderer of renderers.values()) renderer.giveUp();
    renderers.clear();
    endIdleWorker();
  };
  return started;
}
