/** Frames into the large canvases, on a worker where the browser can hand canvases over. */

import { FramePainter } from "./pictures.js";

/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {{ width: number, height: number }} Size */
/** @typedef {(frame: Frame, size: Size, at: number) => void} Drawn called after each drawing */
/**
 * @typedef {object} Painter
 * @property {(frame: Frame | null, image: number | null) => void} show the frame, or of its batch one
 *   image alone
 * @property {() => void} close
 */

const WORKER = new URL("painting_worker.js", import.meta.url);

/** @type {Worker | null} alive while any canvas is its own */
let worker = null;
/** Whether the browser said that there is no worker to be had, as a page's rules may. */
let isRefused = false;
/** @type {Map<number, WorkerPainter>} */
const painters = new Map();
let lastId = 0;

/**
 * Something that draws the newest of the frames shown to it.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Drawn} drawn
 * @param {(canvas: HTMLCanvasElement) => void} replaced told of a canvas that has taken its place
 * @returns {Painter}
 */
export function painterOf(canvas, drawn, replaced) {
  try {
    if (!isRefused) return new WorkerPainter(canvas, drawn, replaced);
  } catch {
    endIdleWorker();
  }
  return new PagePainter(canvas, drawn);
}

class WorkerPainter {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Drawn} drawn
   * @param {(canvas: HTMLCanvasElement) => void} replaced
   */
  constructor(canvas, drawn, replaced) {
    worker ??= startWorker(); // before the canvas is given away: one that is given away cannot be drawn on
    const handedOver = canvas.transferControlToOffscreen();
    this.canvas = canvas;
    this.drawn = drawn;
    this.replaced = replaced;
    /** @type {Painter | null} draws on the page, where the worker could not be had after all */
    this.instead = null;
    this.id = ++lastId;
    /** @type {Frame | null} */
    this.wanted = null;
    /** @type {number | null} */
    this.image = null;
    /** @type {Map<number, Frame>} with the worker, by number */
    this.sent = new Map();
    this.number = 0;
    painters.set(this.id, this);
    worker.postMessage({ id: this.id, canvas: handedOver }, [handedOver]);
  }

  /** @type {Painter["show"]} */
  show(frame, image) {
    if (frame === this.wanted && image === this.image) return;
    this.wanted = frame;
    this.image = image;
    if (this.instead) return this.instead.show(frame, image);
    if (frame === null) return this.sent.clear();
    this.sent.set(++this.number, frame);
    const { blob, cells } = frame;
    worker?.postMessage({ id: this.id, picture: { blob, cells, image, number: this.number } });
  }

  /** @param {Size & { number: number, at: number, failed?: boolean }} told */
  onDrawn({ number, width, height, at, failed }) {
    const frame = this.sent.get(number);
    // The ones before it were drawn or overtaken.
    for (const older of this.sent.keys()) if (older <= number) this.sent.delete(older);
    if (frame && !failed) this.drawn(frame, { width, height }, at - performance.timeOrigin);
  }

  /** Go on without the worker, on another canvas: one that is given away does not come back. */
  giveUp() {
    const canvas = /** @type {HTMLCanvasElement} */ (this.canvas.cloneNode());
    this.canvas.replaceWith(canvas);
    this.replaced(canvas);
    this.sent.clear();
    this.instead = new PagePainter(canvas, this.drawn);
    this.instead.show(this.wanted, this.image);
  }

  close() {
    this.instead?.close();
    painters.delete(this.id);
    worker?.postMessage({ id: this.id, close: true });
    endIdleWorker();
  }
}

class PagePainter {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Drawn} drawn
   */
  constructor(canvas, drawn) {
    this.painter = new FramePainter(canvas, (frame) => {
      drawn(frame, { width: canvas.width, height: canvas.height }, performance.now());
    });
  }

  /** @type {Painter["show"]} */
  show(frame, image) {
    this.painter.show(frame, image);
  }

  close() {
    this.painter.show(null);
  }
}

function endIdleWorker() {
  if (painters.size > 0) return;
  worker?.terminate();
  worker = null;
}

function startWorker() {
  const started = new Worker(WORKER, { type: "module" });
  let works = false;
  started.onmessage = (event) => {
    works = true;
    painters.get(event.data.id)?.onDrawn(event.data);
  };
  started.addEventListener("error", () => {
    if (works || isRefused) return; // it goes on after an error
    isRefused = true;
    for (const painter of painters.values()) painter.giveUp();
    painters.clear();
    endIdleWorker();
  });
  return started;
}
