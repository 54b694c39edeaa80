/**
 * Keeps the runs that are over across a reload: what each was made of, its last step and its
 * result as small copies. What the store forgets is forgotten here, too.
 */

import { endOf, newRun } from "./store.js";
import { openDatabase } from "./run_database.js";

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").Run} Run */

const SETTLE_MS = 1000;

export class RunArchive {
  /**
   * @param {import("./store.js").FrameStore} store
   * @param {(picture: Frame) => Promise<import("./store.js").SmallCopy>} copyOf a small copy, or the picture itself
   * @param {() => Promise<import("./run_database.js").Database>} [open]
   */
  constructor(store, copyOf, open = openDatabase) {
    this.store = store;
    this.copyOf = copyOf;
    /** Whether the browser refuses to keep anything. */
    this.refused = false;
    /** @type {Map<string, string>} by run, what of it was written */
    this._written = new Map();
    this._timer = 0;
    this._work = open()
      .then((database) => this._restore(database))
      .catch(() => this._refuse());
    store.addEventListener("runs", () => {
      this._timer ||= setTimeout(() => this._soon(), SETTLE_MS);
    });
  }

  /** Forget all runs, also those of other tabs and other days. */
  forgetAll() {
    this.store.clear();
    this._written.clear();
    this._work = this._work.then((database) => database && attempt(database.clear()).then(() => database));
    return this._work;
  }

  _soon() {
    this._timer = 0;
    this._work = this._work.then((database) => this._write(database).then(() => database));
  }

  /** @param {import("./run_database.js").Database} database */
  async _restore(database) {
    const records = await attempt(database.all());
    if (!records) return this._refuse();
    for (const record of records.sort((a, b) => a.startedAt - b.startedAt)) {
      const run = runOf(record);
      this._written.set(run.id, versionOf(run));
      this.store.restore(run);
    }
    return database;
  }

  /** @param {import("./run_database.js").Database | null} database */
  async _write(database) {
    const over = this.store.runs.filter((run) => !run.live && run.frames.length > 0);
    for (const run of over) {
      const version = versionOf(run);
      if (this._written.get(run.id) === version) continue;
      this._written.set(run.id, version);
      for (const picture of [run.frames.at(-1), endOf(run)]) {
        if (picture) picture.small ??= await this.copyOf(picture).catch(() => undefined);
      }
      if (run.frames.length === 0) continue; // forgotten meanwhile
      if (database && !(await attempt(database.put(await recordOf(run)).then(() => true)))) this._refuse();
    }
    const kept = new Set(this.store.runs.map(({ id }) => id));
    for (const id of this._written.keys()) {
      if (kept.has(id)) continue;
      this._written.delete(id);
      if (database) await attempt(database.delete(id));
    }
  }

  _refuse() {
    this.refused = true;
    this.store.dispatchEvent(new CustomEvent("runs"));
    return null;
  }
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @returns {Promise<T | null>} null if it fails: the browser may refuse at any time
 */
function attempt(promise) {
  return promise.catch(() => null);
}

/**
 * @param {Run} run
 * @returns {string} differs when a run has to be written again
 */
function versionOf(run) {
  const end = endOf(run);
  return [run.title, run.origin.seed, run.starred, run.stage, end?.seq, end?.outputNode].join();
}

/** @param {Run} run */
async function recordOf(run) {
  const { id, promptId, nodeId, displayNodeId, title, origin, starred, foreign } = run;
  const { stage, step, totalSteps, begins, finishedAt, startedAt, begunAt, endedAt } = run;
  const end = endOf(run);
  return {
    ...{ id, promptId, nodeId, displayNodeId, title, origin, starred, foreign },
    ...{ stage, step, totalSteps, begins, finishedAt, startedAt, took: (endedAt ?? begunAt) - begunAt },
    frame: pictureOf(/** @type {Frame} */ (run.frames.at(-1))), // before waiting: it may be forgotten then
    result: end?.outputNode ? pictureOf(end) : null,
    graph: await run.graph,
  };
}

/** @param {Frame} picture */
function pictureOf({ seq, stage, step, totalSteps, decoder, cells, notFinite, label, outputNode, ...whole }) {
  const { blob, width, height } = whole.small ?? whole;
  return { seq, stage, step, totalSteps, decoder, cells, notFinite, label, outputNode, blob, width, height };
}

/** @param {any} record */
function runOf({ frame, result, took, graph, ...about }) {
  const run = newRun({ ...about, graph: graph && Promise.resolve(graph), begunAt: 0, endedAt: took, live: false, closed: true });
  const restored = (/** @type {any} */ picture) => {
    const { blob, width, height } = picture;
    return { ...picture, run, latencyMs: NaN, arrivedAt: 0, animation: null, small: { blob, width, height } };
  };
  run.frames.push(restored(frame));
  if (result) run.results.push(restored(result));
  return run;
}

