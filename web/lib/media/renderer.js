/** Frames into canvases, the newest only; large canvases on a worker where the browser can hand them over. */

import { drawPart, withBitmap } from "./bitmaps.js";

/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {{ width: number, height: number, at: number }} Drawing size of what was drawn, and when */
/** @typedef {(frame: Frame, drawing: Drawing) => void} Drawn called after each drawing */
/**
 * @typedef {object} Target A canvas, and who draws into it.
 * @property {(frame: Frame, image: number | null) => Promise<Drawing | null>} draw null where the
 *   picture could not be decoded: then the last one stays
 * @property {() => void} clear
 * @property {() => void} [close]
 */

const WORKER = new URL("render_worker.js", import.meta.url);

/** @type {Worker | null} alive while any canvas is its own */
let worker = null;
/** Whether the browser said that there is no worker to be had, as a page's rules may. */
let isRefused = false;
/** @type {Map<number, WorkerCanvas>} */
const handedOver = new Map();
let lastId = 0;

/** Draws one frame at a time: what comes meanwhile replaces what waits. */
export class Renderer {
  /**
   * Draws on the page, where a small picture is enough.
   *
   * @param {HTMLCanvasElement} canvas takes the size of the picture
   * @param {number} maxSide
   */
  static small(canvas, maxSide) {
    return new Renderer(new PageCanvas(canvas, maxSide));
  }

  /**
   * Draws on the worker if possible.
   *
   * @param {HTMLCanvasElement} canvas takes the size of the picture
   * @param {Drawn} drawn
   * @param {(canvas: HTMLCanvasElement) => void} replaced told of a canvas that has taken its place
   */
  static large(canvas, drawn, replaced) {
    try {
      if (!isRefused) return new Renderer(new WorkerCanvas(canvas, replaced), drawn);
    } catch {
      endIdleWorker();
    }
    return new Renderer(new PageCanvas(canvas), drawn);
  }

  /**
   * @param {Target} target
   * @param {Drawn} [drawn]
   */
  constructor(target, drawn = () => {}) {
    this._target = target;
    this._drawn = drawn;
    /** @type {{ frame: Frame, image: number | null } | null} */
    this._wanted = null;
    this._busy = false;
  }

  /**
   * @param {Frame | null} frame null for nothing
   * @param {number | null} [image] of the batch, to be shown alone
   */
  show(frame, image = null) {
    const now = this._wanted;
    if (frame === (now?.frame ?? null) && (!now || image === now.image)) return;
    this._wanted = frame && { frame, image };
    if (!this._busy) void this._work();
  }

  close() {
    this.show(null);
    this._target.close?.();
  }

  async _work() {
    this._busy = true;
    let /** @type {Renderer["_wanted"]} */ done;
    do {
      done = this._wanted;
      const drawing = done && (await this._target.draw(done.frame, done.image));
      if (done && drawing && this._wanted) this._drawn(done.frame, drawing);
    } while (this._wanted !== done);
    if (!done) this._target.clear();
    this._busy = false;
  }
}

/** @implements {Target} */
class PageCanvas {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} [maxSide]
   */
  constructor(canvas, maxSide = Infinity) {
    this.canvas = canvas;
    this.maxSide = maxSide;
  }

  /** @type {Target["draw"]} */
  async draw(frame, image) {
    const { canvas, maxSide } = this;
    const isDrawn = await withBitmap(frame, (bitmap) => drawPart(canvas, bitmap, frame.cells, image, maxSide));
    return isDrawn ? { width: canvas.width, height: canvas.height, at: performance.now() } : null;
  }

  clear() {
    this.canvas.width = this.canvas.height = 1;
  }
}

/** @implements {Target} */
class WorkerCanvas {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {(canvas: HTMLCanvasElement) => void} replaced
   */
  constructor(canvas, replaced) {
    worker ??= startWorker(); // before the canvas is given away: one that is given away cannot be drawn on
    const offscreen = canvas.transferControlToOffscreen();
    this.canvas = canvas;
    this.replaced = replaced;
    /** @type {PageCanvas | null} where the worker could not be had after all */
    this.instead = null;
    this.id = ++lastId;
    /** Does on the page what the worker was asked for. */
    this.drawInstead = () => {};
    /** @type {(drawing: Drawing | null) => void} */
    this.answer = () => {};
    handedOver.set(this.id, this);
    worker.postMessage({ id: this.id, canvas: offscreen }, [offscreen]);
  }

  /** @type {Target["draw"]} */
  draw(frame, image) {
    const { id, instead } = this;
    if (instead) return instead.draw(frame, image);
    return new Promise((resolve) => {
      this.answer = resolve;
      this.drawInstead = () => resolve(this.draw(frame, image));
      worker?.postMessage({ id, picture: { blob: frame.blob, cells: frame.cells, image } });
    });
  }

  /** Go on without the worker, on another canvas: one that is given away does not come back. */
  giveUp() {
    const canvas = /** @type {HTMLCanvasElement} */ (this.canvas.cloneNode());
    this.canvas.replaceWith(canvas);
    this.replaced(canvas);
    this.instead = new PageCanvas(canvas);
    this.drawInstead();
  }

  clear() {
    this.instead?.clear(); // the worker's keeps its last picture until the next one
  }

  close() {
    handedOver.delete(this.id);
    worker?.postMessage({ id: this.id, close: true });
    endIdleWorker();
  }
}

function endIdleWorker() {
  if (handedOver.size > 0) return;
  worker?.terminate();
  worker = null;
}

function startWorker() {
  const started = new Worker(WORKER, { type: "module" });
  let works = false;
  started.onmessage = ({ data: { id, drawing } }) => {
    works = true;
    handedOver.get(id)?.answer(drawing && { ...drawing, at: drawing.at - performance.timeOrigin });
  };
  started.onerror = () => {
    if (works || isRefused) return; // it goes on after an error
    isRefused = true;
    for (const canvas of handedOver.values()) canvas.giveUp();
    handedOver.clear();
    endIdleWorker();
  };
  return started;
}
