/** Frames into the large canvases, on a worker where the browser can hand canvases over. */

import { FramePainter } from "./pictures.js";

/** @typedef {import("./store.js").Frame} Frame */
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
/** @type {Map<number, WorkerPainter>} */
const painters = new Map();
let lastId = 0;

/**
 * Something that draws the newest of the frames shown to it.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Drawn} drawn
 * @returns {Painter}
 */
export function painterOf(canvas, drawn) {
  try {
    return new WorkerPainter(canvas, drawn);
  } catch {
    endIdleWorker();
    return new PagePainter(canvas, drawn);
  }
}

class WorkerPainter {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Drawn} drawn
   */
  constructor(canvas, drawn) {
    worker ??= startWorker(); // before the canvas is given away: one that is given away cannot be drawn on
    const handedOver = canvas.transferControlToOffscreen();
    this.drawn = drawn;
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
    if (frame === null) return this.sent.clear();
    this.sent.set(++this.number, frame);
    const { blob, mosaic } = frame;
    worker?.postMessage({ id: this.id, picture: { blob, mosaic, image, number: this.number } });
  }

  /** @param {Size & { number: number, at: number, failed?: boolean }} told */
  onDrawn({ number, width, height, at, failed }) {
    const frame = this.sent.get(number);
    // The ones before it were drawn or overtaken.
    for (const older of this.sent.keys()) if (older <= number) this.sent.delete(older);
    if (frame && !failed) this.drawn(frame, { width, height }, at - performance.timeOrigin);
  }

  close() {
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
  started.addEventListener("message", (event) => painters.get(event.data.id)?.onDrawn(event.data));
  return started;
}
