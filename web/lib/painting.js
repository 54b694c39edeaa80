/** Frames into the large canvases, on a worker where the browser can hand canvases over. */

import { FramePainter } from "./pictures.js";

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {{ width: number, height: number }} Size */
/** @typedef {(frame: Frame, size: Size, at: number) => void} Drawn called after each drawing */
/** @typedef {{ show: (frame: Frame | null) => void, close: () => void }} Painter */

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
    return new PagePainter(canvas, drawn);
  }
}

class WorkerPainter {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Drawn} drawn
   */
  constructor(canvas, drawn) {
    const handedOver = canvas.transferControlToOffscreen();
    this.drawn = drawn;
    this.id = ++lastId;
    /** @type {Frame | null} */
    this.wanted = null;
    /** @type {Map<number, Frame>} with the worker, by number */
    this.sent = new Map();
    this.number = 0;
    painters.set(this.id, this);
    worker ??= startWorker();
    worker.postMessage({ id: this.id, canvas: handedOver }, [handedOver]);
  }

  /** @param {Frame | null} frame */
  show(frame) {
    if (frame === this.wanted) return;
    this.wanted = frame;
    if (frame === null) return this.sent.clear();
    this.sent.set(++this.number, frame);
    worker?.postMessage({ id: this.id, blob: frame.blob, number: this.number });
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
    if (painters.size > 0) return;
    worker?.terminate();
    worker = null;
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

  /** @param {Frame | null} frame */
  show(frame) {
    this.painter.show(frame);
  }

  close() {
    this.painter.show(null);
  }
}

function startWorker() {
  const started = new Worker(WORKER, { type: "module" });
  started.addEventListener("message", (event) => painters.get(event.data.id)?.onDrawn(event.data));
  return started;
}
