/**
 * What the user looks at, the same in every panel: which run, which of its frames, still or
 * animated, which image of its batch, against which.
 */

import { nearest, slotOf } from "./slots.js";
import { endOf, newestAnimation, picturesOf, soundAt } from "./store.js";

/** @typedef {import("./store.js").Animation} Animation */
/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").Run} Run */
/** @typedef {import("./store.js").FrameStore} FrameStore */

/** Dispatches `change` on every change. */
export class Watching extends EventTarget {
  /** @param {FrameStore} store */
  constructor(store) {
    super();
    this.store = store;
    /** @type {string | null} the node whose runs are shown; null follows the running one */
    this._node = null;
    /** @type {Run | null} a run chosen from the earlier ones */
    this._chosen = null;
    /** @type {Frame | null} null for the newest */
    this._at = null;
    /** @type {Frame | null} the left half of a comparison */
    this._against = null;
    /** @type {Run | null} instead: its picture at the place of the one that is shown */
    this._againstRun = null;
    this._grid = false;
    this._sheet = false;
    /** @type {Run | null} the first of two runs to compare */
    this._marked = null;
    /** @type {Run | null} the newest run when somebody began to look back */
    this._newestThen = null;
    /** Whether to show the still even where there is an animation. */
    this.stills = false;
    /** @type {WeakMap<Run, number>} the image of its batch that is shown alone */
    this._images = new WeakMap();
    for (const name of ["frame", "animation", "progress", "runs"]) store.addEventListener(name, () => this._tell());
  }

  /** @returns {Run | null} */
  get run() {
    const { store } = this;
    if (this._at) return this._at.run;
    if (this._chosen) return this._chosen;
    if (this._node !== null) {
      const pinned = store.runs.findLast((run) => run.displayNodeId === this._node);
      if (pinned) return pinned;
    }
    const seen = store.runs.filter((run) => run.frames.length > 0);
    const live = seen.filter((run) => run.live);
    return newest(live) ?? newest(seen) ?? store.runs.at(-1) ?? null;
  }

  /** @returns {Frame | null} the frame to show */
  get frame() {
    if (this._at && picturesOf(this._at.run).includes(this._at)) return this._at;
    if (this._at) return this._at.run.frames[0] ?? null;
    return this.run && endOf(this.run);
  }

  /** @returns {Animation | null} the newest one of the run, or that of the frame that was chosen */
  get animation() {
    if (this.against) return null;
    const { frame } = this;
    return this._at || frame?.outputNode ? (frame?.animation ?? null) : newestAnimation(this.run);
  }

  /** @returns {Animation | null} the animation to play */
  get playing() {
    return this.stills ? null : this.animation;
  }

  /** @returns {import("./store.js").Sound | null} what it sounds like, or the last step before did */
  get sound() {
    const at = this._at?.outputNode ? null : this._at;
    return this._against ? null : soundAt(this.run, at);
  }

  /** @returns {number | null} the image of the batch that is shown alone */
  get image() {
    const image = this.run && this._images.get(this.run);
    const cells = (this.playing ?? this.frame)?.cells;
    return image != null && cells?.images.includes(image) ? image : null;
  }

  /** @returns {Frame | null} the frame to compare with */
  get against() {
    const { frame } = this;
    return this._againstRun && frame ? counterpart(this._againstRun, frame) : this._against;
  }

  /** Whether new frames are shown as they come. */
  get isLive() {
    return this._at === null && this._chosen === null;
  }

  /** @returns {string | null} */
  get pinnedNode() {
    return this._node;
  }

  /** The frames of the watched run, and what came of it. */
  get pictures() {
    const { run } = this;
    return run ? picturesOf(run) : [];
  }

  /** The place of the shown picture among those of its run. */
  get index() {
    const { frame } = this;
    return frame ? this.pictures.indexOf(frame) : -1;
  }

  /** Whether all samplers are shown side by side: only where there are several. */
  get grid() {
    return this._grid && !this._sheet && new Set(this.store.current.map((run) => run.displayNodeId)).size > 1;
  }

  /** Whether all runs are shown as a contact sheet. */
  get sheet() {
    return this._sheet;
  }

  /** Whether one picture is shown, or two on either side of a slider. */
  get single() {
    return !this.sheet && !this.grid;
  }

  /** @returns {Run | null} the first of two runs to compare */
  get marked() {
    return this._marked;
  }

  /** @returns {Run | null} one that goes on, while an older one is looked at */
  get newRun() {
    if (!this._at && !this._chosen) return null;
    const going = this.store.runs.findLast((run) => run.live) ?? null;
    return going === this.run ? null : going;
  }

  /** Show the run that began while an older one was watched. */
  goToNewRun() {
    const { newRun } = this;
    this.goLive();
    if (newRun && this._node !== null && this._node !== newRun.displayNodeId) this.follow();
  }

  /** Show what runs, whichever sampler it is. */
  follow() {
    this._node = this._chosen = this._at = null;
    this._grid = this._sheet = false;
    this._tell();
  }

  /** Show the newest frame of what is watched. */
  goLive() {
    this._chosen = this._at = null;
    this._tell();
  }

  /** @param {string} displayNodeId show this sampler, now and in later runs */
  pin(displayNodeId) {
    this._node = displayNodeId;
    this._chosen = this._at = null;
    this._grid = this._sheet = false;
    this._tell();
  }

  /** @param {Run} run */
  choose(run) {
    this._chosen = run;
    this._at = null;
    this._grid = this._sheet = false;
    this._newestThen = this.store.runs.at(-1) ?? null;
    this._tell();
  }

  /** @param {number} index of a picture of the watched run; the last one of a live run is 'live' */
  scrub(index) {
    const { run, pictures } = this;
    const frame = pictures[Math.max(0, Math.min(index, pictures.length - 1))];
    if (!run || !frame) return;
    this._at = run.live && frame === endOf(run) ? null : frame;
    this._newestThen = this.store.runs.at(-1) ?? null;
    this._tell();
  }

  /** @param {boolean} on show stills also where there are animations */
  showStills(on) {
    this.stills = on;
    this._tell();
  }

  /** @param {number | null} image show this one of the batch alone, through the whole run; null: all */
  showImage(image) {
    const { run } = this;
    if (!run) return;
    if (image === null) this._images.delete(run);
    else this._images.set(run, image);
    this._tell();
  }

  /** @param {boolean} on compare the frame shown now with what is shown later */
  compare(on) {
    this._against = on ? this.frame : null;
    this._againstRun = null;
    this._grid = false;
    this._tell();
  }

  /**
   * Of two runs compare the same steps, or their results.
   *
   * @param {Run} run the first press marks it, one on another run compares the two
   */
  mark(run) {
    const first = this._marked;
    this._marked = first ? null : run;
    if (!first || first === run) return this._tell();
    this._against = null;
    this._againstRun = first;
    this.choose(run);
  }

  /** @param {boolean} on */
  showGrid(on) {
    this._grid = on;
    this._against = this._againstRun = null;
    this._tell();
  }

  /** @param {boolean} on show all runs as a contact sheet */
  showSheet(on) {
    this._sheet = on;
    this._marked = null;
    this._tell();
  }

  /** Whether the watched run is over, and a newer one has begun unseen. */
  _isLeftBehind() {
    const { newRun, store } = this;
    if (!newRun || this._node !== null || this.against || this.run?.live) return false;
    return store.runs.indexOf(newRun) > store.runs.indexOf(/** @type {Run} */ (this._newestThen));
  }

  _tell() {
    // A forgotten frame or run cannot be watched.
    const isKept = (/** @type {Run | undefined} */ run) => run && run.frames.length > 0 && this.store.runs.includes(run);
    if (!isKept(this._at?.run)) this._at = null;
    if (!isKept(this._against?.run)) this._against = null;
    if (this._againstRun && !isKept(this._againstRun)) this._againstRun = null;
    if (this._marked && !isKept(this._marked)) this._marked = null;
    if (this._chosen && !this.store.runs.includes(this._chosen)) this._chosen = null;
    if (this._isLeftBehind()) this._chosen = this._at = null;
    if (!this.grid && !this.store.live) this._grid = false;
    this.dispatchEvent(new CustomEvent("change"));
  }
}

/**
 * @param {Run} run
 * @param {Frame} frame of another run
 * @returns {Frame | null} the run's own picture of the same step, or what came of it; else the nearest
 */
function counterpart(run, frame) {
  if (frame.outputNode && run.results.length) return endOf(run);
  return run.frames[nearest(run.frames, slotOf(frame))] ?? null;
}

/**
 * @param {Run[]} runs
 * @returns {Run | undefined} the one with the newest frame
 */
function newest(runs) {
  return runs.reduce(
    (best, run) => (!best || lastArrival(run) >= lastArrival(best) ? run : best),
    /** @type {Run | undefined} */ (undefined),
  );
}

/** @param {Run} run */
function lastArrival(run) {
  return run.frames.at(-1)?.arrivedAt ?? 0;
}
