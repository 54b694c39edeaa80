/** The frames that the page keeps: runs with their frames, bounded by count and by bytes. */

import { Pace } from "./pace.js";
import { Thumbnails } from "./thumbnails.js";

/** @typedef {import("./cells.js").Cells} Cells */

/**
 * @typedef {object} Picture What one preview shows, as it arrived.
 * @property {Run} run
 * @property {number} seq counts from 1 within its run
 * @property {number} stage from 1: which sampling of its node
 * @property {number} step from 1, within the stage
 * @property {number} totalSteps
 * @property {number} width
 * @property {number} height
 * @property {string} decoder
 * @property {Cells | null} cells where it shows several images of a batch
 * @property {number} notFinite how many positions of the latent were NaN or infinite
 * @property {number} latencyMs captured to sent
 * @property {Record<string, any> | null} label as the server told it; null of other previewers
 * @property {number} arrivedAt on the clock of performance.now()
 * @property {Blob} blob
 * @property {string} [outputNode] of a result: the node that saved or showed it
 * @property {SmallCopy} [small] which replaces the picture when memory is short
 *
 * @typedef {Pick<Picture, "blob" | "width" | "height">} SmallCopy
 */

/**
 * @typedef {object} OfFrame
 * @property {Animation | null} animation of the same step
 * @property {string} [video] the address of the video of which this is a still, of a result
 *
 * @typedef {Picture & OfFrame} Frame A still picture: a place in the timeline. For a step that came
 *   as an animation alone, this stands in for the still.
 */

/** @typedef {Picture} Animation An animated WebP: frames of a video, or images of a batch, in a row. */

/**
 * @typedef {object} OfSound
 * @property {string} id by which the server gives it
 * @property {number} seconds
 * @property {number} ofSeconds how long all of it would be
 * @property {Blob | null} blob a WAV file, once it was fetched
 *
 * @typedef {Pick<Picture, "run" | "seq" | "stage" | "step" | "totalSteps" | "cells" | "label"> & OfSound} Sound
 *   What a step of a run sounds like, from its beginning.
 */

/**
 * @typedef {object} Slow
 * @property {string} decoder
 * @property {number} decode_ms that a picture takes
 * @property {number} seconds_between its pictures, at the budget
 */

/**
 * @typedef {object} MissingFile A decoder that is not there.
 * @property {string} file its name
 * @property {string} url where to download it
 * @property {number} megabytes 0 where that is not known
 * @property {string} folder where to put it
 * @property {string} models that it is for
 */

/**
 * @typedef {object} Silence Why a sampler has no previews.
 * @property {string} why `method`, `latents` or `suppressed`
 * @property {string} who the pack that suppresses previews
 * @property {{ title?: string, option?: string } | null} where to switch that off
 * @property {MissingFile | null} missing the file that it needs, where that is why
 */

/**
 * @typedef {object} Run One node at work: one sampling, or several as its stages.
 * @property {string} id
 * @property {string} promptId
 * @property {string} nodeId the execution id of its node
 * @property {string} displayNodeId
 * @property {string} title
 * @property {import("./prompts.js").Origin} origin what it is made of, as far as its prompt says
 * @property {Promise<Blob | null> | null} graph its workflow, packed
 * @property {boolean} starred
 * @property {boolean} foreign whether the previews are ComfyUI's or another pack's
 * @property {Frame[]} frames by age
 * @property {import("./results.js").Output[]} outputs those that nobody has asked for yet
 * @property {Frame[]} results what came of it, as far as it was fetched
 * @property {Sound[]} sounds by age; but for the newest, those that were fetched
 * @property {string} noSound why it has none although one was asked for: see the server's transport.py
 * @property {number} bytes
 * @property {number} stage from 1: which sampling of its node
 * @property {number} step within the stage
 * @property {number} totalSteps
 * @property {Record<number, number>} begins by stage: how many steps there were before it
 * @property {Pace} pace of its steps
 * @property {boolean} canFinish whether its sampler can be finished early
 * @property {number | null} finishedAt the step at which it was
 * @property {Slow | null} slow the decoder that cannot keep up with the budget, where one cannot
 * @property {MissingFile | null} missing the file that would make its previews sharp, where it is not there
 * @property {number} dropped
 * @property {Record<string, number>} outcomes what became of its frames, where the server said so
 * @property {Record<string, any> | null} settings the run's own, where the server said so
 * @property {Date} startedAt
 * @property {number} begunAt on the store's clock
 * @property {number | null} endedAt on the store's clock; null while it is live
 * @property {boolean} live
 * @property {boolean} closed whether the server said that no more frames come, of its own runs
 */

const MAX_RUNS = 200;
const MAX_ENDED = 100;

/** The share of the memory for frames that their thumbnails may take. */
const THUMBNAILS_SHARE = 1 / 4;

/**
 * Dispatches `frame` (detail: the Frame), `animation` (detail: the Frame that it belongs to), `progress` (a
 * sampler advanced), `runs` (a run came, ended or was forgotten) and `finished` (detail: the Run that was
 * finished early).
 */
export class FrameStore extends EventTarget {
  /**
   * @param {() => { frames: number, bytes: number }} limits asked for every time
   * @param {() => number} [clock] in milliseconds
   */
  constructor(limits, clock = () => performance.now()) {
    super();
    this.limits = limits;
    this.clock = clock;
    /** @type {Run[]} by age */
    this.runs = [];
    this.frameCount = 0;
    /** What the frames' files take, without the thumbnails. */
    this.bytes = 0;
    this.thumbnails = new Thumbnails(
      () => this.limits().bytes * THUMBNAILS_SHARE,
      () => this._makeRoom(),
    );
    /** @type {Set<string>} prompts that are over, by age */
    this._ended = new Set();
    /** @type {Silence | null} why the newest sampler has no previews */
    this.silence = null;
    /** Whether a model is being loaded, where ComfyUI tells. */
    this.loading = false;
    /** @type {(run: Run) => Partial<Run>} what its prompt says */
    this.describe = () => ({});
  }

  /** The runs of the newest prompt. */
  get current() {
    const newest = this.runs.at(-1);
    return newest ? this.runs.filter((run) => run.promptId === newest.promptId) : [];
  }

  /** @param {string} promptId */
  isOver(promptId) {
    return this._ended.has(promptId);
  }

  /** Whether any run is live. */
  get live() {
    return this.runs.some((run) => run.live);
  }

  /**
   * The run with that id, created if new.
   *
   * @param {string} id
   * @param {{ promptId: string, nodeId: string, displayNodeId?: string, foreign?: boolean }} about
   * @returns {Run}
   */
  run(id, { promptId, nodeId, displayNodeId = nodeId, foreign = false }) {
    const known = this.runs.find((run) => run.id === id);
    if (known) return known;
    const begunAt = this.clock();
    const live = !this._ended.has(promptId);
    const run = newRun({ id, promptId, nodeId, displayNodeId, foreign, closed: foreign, begunAt, live });
    Object.assign(run, this.describe(run));
    if (!run.live) run.endedAt = run.begunAt;
    this.runs.push(run);
    this._trim();
    this._tell("runs");
    return run;
  }

  /**
   * The run that a message is about, created if new.
   *
   * @param {any} told with the keys of ComfyUI's messages
   */
  runOf(told) {
    const nodeId = told.node_id ?? "";
    return this.run(told.run, { promptId: told.prompt_id ?? "", nodeId, displayNodeId: told.display_node_id ?? nodeId });
  }

  /**
   * A node may sample several times: with each its run goes on, from the first step.
   *
   * @param {Run} run
   * @param {number} stage
   */
  reachStage(run, stage) {
    if (stage <= run.stage) return;
    run.begins[stage] = (run.begins[run.stage] ?? 0) + run.totalSteps;
    run.pace.restart();
    const live = !this._ended.has(run.promptId);
    const endedAt = live ? null : run.endedAt;
    Object.assign(run, { stage, step: 0, totalSteps: 0, canFinish: false, finishedAt: null, closed: false, live, endedAt });
    this._tell("runs");
  }

  /**
   * The sampler goes on, whether or not its steps are shown.
   *
   * @param {string} promptId
   * @param {string} nodeId
   * @param {number} step
   * @param {number} totalSteps
   */
  advance(promptId, nodeId, step, totalSteps) {
    const run = this.runs.findLast((one) => one.live && one.nodeId === nodeId && one.promptId === promptId);
    if (!run || run.foreign || step <= run.step) return;
    this._reach(run, { stage: run.stage, step, totalSteps });
    this._tell("progress");
  }

  /**
   * @param {Run} run
   * @param {Pick<Picture, "stage" | "step" | "totalSteps">} at
   */
  _reach(run, { stage, step, totalSteps }) {
    if (stage < run.stage) return; // late
    run.step = Math.max(run.step, step);
    run.totalSteps = totalSteps;
    if (step > 0) run.pace.reach(step, this.clock());
  }

  /**
   * @param {Run} run
   * @param {Omit<Picture, "run">} picture
   */
  add(run, picture) {
    const frame = { run, ...picture, animation: null };
    run.frames.push(frame);
    this._reach(run, frame);
    this.frameCount += 1;
    this._weigh(run, frame.blob.size);
    this._trim();
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  /**
   * What came of a run in the end stands behind its frames.
   *
   * @param {Run} run
   * @param {Omit<Frame, "run"> & { outputNode: string }} picture
   */
  addResult(run, picture) {
    if (run.frames.length === 0) return; // it was forgotten meanwhile
    const frame = { run, ...picture };
    run.results.push(frame);
    run.results.sort((a, b) => a.seq - b.seq);
    if (!this.runs.includes(run)) return; // taken out meanwhile: it counts once it is put back
    this.frameCount += 1;
    this._weigh(run, weightOf(frame));
    this._trim();
    this._tell("runs");
  }

  /**
   * An animation belongs to the frame of its step, though it comes later than that.
   *
   * @param {Run} run
   * @param {Omit<Picture, "run">} picture
   */
  addAnimation(run, picture) {
    const at = run.frames.findLastIndex(
      ({ stage, step }) => stage < picture.stage || (stage === picture.stage && step <= picture.step),
    );
    const before = run.frames[at];
    const known = before?.step === picture.step && before.stage === picture.stage ? before : null;
    const weightBefore = known ? weightOf(known) : 0;
    const frame = known ?? { run, ...picture, animation: null };
    if (!known) {
      run.frames.splice(at + 1, 0, frame);
      this._reach(run, frame);
      this.frameCount += 1;
    } else if (isStandIn(known)) Object.assign(known, picture);
    frame.animation = { run, ...picture };
    this._weigh(run, weightOf(frame) - weightBefore);
    this._trim();
    this.dispatchEvent(new CustomEvent("animation", { detail: frame }));
  }

  /** @param {Sound} sound a newer one; earlier ones that were not fetched are gone */
  addSound(sound) {
    const { run } = sound;
    run.noSound = "";
    run.sounds = [...run.sounds.filter(({ blob }) => blob), sound];
    this._tell("runs");
  }

  /**
   * @param {Run} run
   * @param {string} why
   */
  haveNoSound(run, why) {
    run.noSound = why;
    this._tell("runs");
  }

  /**
   * @param {Sound} sound
   * @param {Blob} blob its file, which was fetched
   */
  keepSound(sound, blob) {
    sound.blob = blob;
    const { run } = sound;
    if (this.runs.includes(run) && run.sounds.includes(sound)) this._weigh(run, blob.size);
    this._trim();
    this._tell("runs");
  }

  /** @param {Sound} sound which the server no longer has */
  dropSound(sound) {
    const { run } = sound;
    run.sounds = run.sounds.filter((one) => one !== sound);
    this._tell("runs");
  }

  /**
   * End the runs for which `over` holds. A last frame may still come until they are closed.
   *
   * @param {(run: Run) => boolean} over
   */
  end(over) {
    const ended = this.runs.filter((run) => run.live && over(run));
    for (const run of ended) this._end(run);
    if (ended.length) this._dropSpent();
  }

  /** @param {string} promptId of a prompt that begins; a client may use an id again */
  beginPrompt(promptId) {
    this._ended.delete(promptId);
  }

  /** @param {string} promptId of a prompt that is over, with its runs, even those announced later */
  endPrompt(promptId) {
    this._ended.add(promptId);
    const [oldest] = this._ended;
    if (this._ended.size > MAX_ENDED) this._ended.delete(oldest);
    this.end((run) => run.promptId === promptId);
  }

  /**
   * The server will send no more frames of this run.
   *
   * @param {Run} run
   * @param {number | null} [finishedAt] the step at which it was finished early
   */
  close(run, finishedAt = null) {
    this._end(run);
    Object.assign(run, { closed: true, canFinish: false, finishedAt });
    if (finishedAt !== null) this.dispatchEvent(new CustomEvent("finished", { detail: run }));
    this._dropSpent();
  }

  /** @param {Run} run */
  _end(run) {
    run.live = false;
    run.endedAt ??= this.clock();
  }

  _dropSpent() {
    this.runs = this.runs.filter((run) => !isSpent(run));
    this._tell("runs");
  }

  /** @param {string} promptId of a prompt that became known later than its runs */
  describeRuns(promptId) {
    for (const run of this.runs) if (run.promptId === promptId) Object.assign(run, this.describe(run));
    this._tell("runs");
  }

  /**
   * @param {Run} run
   * @param {boolean} starred those are kept the longest
   */
  star(run, starred) {
    run.starred = starred;
    this._tell("runs");
  }

  /**
   * Take a run out, with its frames; `restore` puts it back.
   *
   * @param {Run} run
   */
  remove(run) {
    this._drop(run);
    this._tell("runs");
  }

  /**
   * Put in a run that was kept elsewhere, in its place by age.
   *
   * @param {Run} run
   */
  restore(run) {
    if (this.runs.some(({ id }) => id === run.id)) return;
    const later = this.runs.findIndex(({ startedAt }) => startedAt > run.startedAt);
    this.runs.splice(later < 0 ? this.runs.length : later, 0, run);
    for (const picture of picturesOf(run)) {
      this.frameCount += 1;
      this._weigh(run, weightOf(picture));
    }
    for (const sound of run.sounds) this._weigh(run, sound.blob?.size ?? 0);
    this._trim();
    this._tell("runs");
  }

  /** Forget all frames, and all runs but live ones. */
  clear() {
    for (const run of this.runs) this._forget(run, run.frames.length);
    this.runs = this.runs.filter((run) => run.live);
    this._tell("runs");
  }

  /** A thumbnail was made. */
  _makeRoom() {
    const before = this.frameCount;
    this._trim();
    if (this.frameCount < before) this._tell("runs");
  }

  _trim() {
    const { frames, bytes } = this.limits();
    const isFull = () => this.frameCount > frames || this.bytes + this.thumbnails.bytes > bytes;
    while (isFull() && this.frameCount > 1) this._giveWay();
    while (this.runs.length > MAX_RUNS) this._drop(leastWanted(this.runs));
    while (this.runs.length > 1 && isSpent(this.runs[0])) this._drop(this.runs[0]); // the newest may have just begun
  }

  /**
   * Discard what matters least: of runs before those of the newest prompt all but their end; then some of
   * these runs, if they take more than half of the memory.
   */
  _giveWay() {
    const { current } = this;
    const earlier = this.runs.filter((run) => !run.live && run.frames.length > 0 && !current.includes(run));
    const long = earlier.find((run) => run.frames.length > 1);
    if (long) return this._forget(long, 1);
    const large = earlier.find(canShrink);
    if (large) return this._shrink(large);
    const { frames, bytes } = this.limits();
    const [count, weight] = earlier.reduce(([c, w], run) => [c + picturesOf(run).length, w + run.bytes], [0, 0]);
    if (count > frames / 2 || weight > bytes / 2) return this._drop(leastWanted(earlier));
    this._forget(/** @type {Run} */ ([...current, ...this.runs].find((run) => run.frames.length > 0)), 1);
  }

  /**
   * Leave a run its last step and its result, as small copies.
   *
   * @param {Run} run
   */
  _shrink(run) {
    const end = endOf(run);
    for (const result of run.results.filter((one) => one !== end)) this._release(result);
    run.results = run.results.filter((one) => one === end);
    for (const picture of picturesOf(run)) {
      const before = weightOf(picture);
      Object.assign(picture, picture.small, { animation: null });
      this._weigh(run, weightOf(picture) - before);
    }
  }

  /** @param {Run} run */
  _drop(run) {
    this.runs = this.runs.filter((one) => one !== run);
    for (const picture of picturesOf(run)) this._release(picture);
    this._weigh(run, -run.bytes); // its sounds
  }

  /**
   * @param {Run} run
   * @param {number} count of frames; what came of the run goes with the last one
   */
  _forget(run, count) {
    const gone = run.frames.splice(0, count);
    if (run.frames.length === 0) gone.push(...run.results.splice(0));
    const [oldest] = run.frames;
    for (const sound of run.sounds.filter((one) => !oldest || isBefore(one, oldest))) {
      this._weigh(run, -(sound.blob?.size ?? 0));
      run.sounds.splice(run.sounds.indexOf(sound), 1);
    }
    for (const frame of gone) this._release(frame);
  }

  /** @param {Frame} frame that counts no longer in what is kept */
  _release(frame) {
    this._weigh(frame.run, -weightOf(frame));
    this.thumbnails.drop(frame);
    this.frameCount -= 1;
  }

  /**
   * @param {Run} run
   * @param {number} bytes
   */
  _weigh(run, bytes) {
    run.bytes += bytes;
    this.bytes += bytes;
  }

  /** @param {string} what */
  _tell(what) {
    this.dispatchEvent(new CustomEvent(what));
  }
}

/**
 * @param {Partial<Run> & Pick<Run, "id" | "promptId" | "nodeId" | "displayNodeId">} known what differs from a
 *   run that begins
 * @returns {Run}
 */
export function newRun(known) {
  /** @type {Run} */
  const run = {
    title: `#${known.displayNodeId}`,
    origin: { workflow: "", seed: null, sampler: "", steps: null, cfg: null },
    graph: null,
    starred: false,
    foreign: false,
    frames: [],
    outputs: [],
    results: [],
    sounds: [],
    noSound: "",
    bytes: 0,
    stage: 1,
    step: 0,
    totalSteps: 0,
    begins: { 1: 0 },
    pace: new Pace(),
    canFinish: false,
    finishedAt: null,
    slow: null,
    missing: null,
    dropped: 0,
    outcomes: {},
    settings: null,
    startedAt: new Date(),
    begunAt: 0,
    endedAt: null,
    live: true,
    closed: false,
    ...known,
  };
  return run;
}

/**
 * @param {Run} run
 * @returns {Frame[]} its frames, and behind them what came of it
 */
export function picturesOf(run) {
  return [...run.frames, ...run.results];
}

/**
 * @param {Run} run
 * @returns {Frame | null} the newest frame; once the sampler has ended, the first picture of what came last
 */
export function endOf(run) {
  const last = run.live ? undefined : run.results.at(-1);
  return run.results.find(({ outputNode }) => outputNode === last?.outputNode) ?? run.frames.at(-1) ?? null;
}

/**
 * @param {Run[]} runs by age
 * @returns {Run} the oldest, before starred and live ones
 */
function leastWanted(runs) {
  return runs.find((run) => !run.live && !run.starred) ?? runs.find((run) => !run.live) ?? runs[0];
}

/** @param {Run} run */
function canShrink(run) {
  return run.results.length > 1 || picturesOf(run).some((one) => one.animation || (one.small && one.small.blob !== one.blob));
}

/** @param {Run} run */
function isSpent(run) {
  return !run.live && run.closed && run.frames.length === 0;
}

/**
 * @param {Frame} frame
 * @returns {boolean} whether there was no still of its step
 */
export function isStandIn(frame) {
  return frame.blob === frame.animation?.blob;
}

/**
 * @param {Run | null} run
 * @returns {Animation | null} the one of the latest step
 */
export function newestAnimation(run) {
  return run?.frames.findLast((frame) => frame.animation)?.animation ?? null;
}

/**
 * @param {Run | null} run
 * @param {Frame | null} [frame] null for the newest
 * @returns {Sound | null} the sound of that frame's step, or the last one before it
 */
export function soundAt(run, frame = null) {
  return run?.sounds.findLast((sound) => !frame || !isBefore(frame, sound)) ?? null;
}

/**
 * @typedef {Pick<Picture, "stage" | "step">} Moment
 *
 * @param {Moment} one
 * @param {Moment} other
 */
function isBefore(one, other) {
  return one.stage < other.stage || (one.stage === other.stage && one.step < other.step);
}

/** @param {Frame} frame */
function weightOf(frame) {
  return frame.blob.size + (isStandIn(frame) ? 0 : (frame.animation?.blob.size ?? 0));
}
