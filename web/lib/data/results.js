/** What comes of a prompt: its pictures and videos, for the samplers that they are made from. */

import { addressOf, get, listen } from "../host/comfy.js";

/** @typedef {import("./store.js").Frame} Frame */
/** @typedef {import("./store.js").FrameStore} FrameStore */
/** @typedef {import("./store.js").Run} Run */
/** @typedef {Pick<Frame, "blob" | "width" | "height" | "animation" | "video">} Look what there is to see */

/**
 * @typedef {object} Output A file that a node saved or showed.
 * @property {string} node
 * @property {number} number counts all of them
 * @property {string} route of its file
 * @property {boolean} isVideo
 * @property {Promise<Look | null> | null} look once it was asked for
 */

/** How the outputs of nodes name their pictures and videos. */
const KINDS = ["images", "gifs", "animated", "videos", "video"];
const VIDEO = /\.(mp4|m4v|webm|mkv|mov|avi)$/i;
const MAX_PER_RUN = 8;

/** The share of the memory for frames that the results of one run may take. */
const SHARE = 1 / 4;

export class Results {
  /**
   * @param {FrameStore} store
   * @param {import("./prompts.js").Prompts} prompts
   * @param {{ pictureLook: (blob: Blob) => Promise<Look>, videoLook: (address: string) => Promise<Look> }} looks
   *   reject what cannot be shown
   */
  constructor(store, prompts, looks) {
    this.store = store;
    this.prompts = prompts;
    this.looks = looks;
    this._count = 0;
    listen("executed", (told) => this._note(told));
  }

  /**
   * Fetch what came of a run, each file once. Files that cannot be fetched or shown, or would take too
   * much memory, are left out.
   *
   * @param {Run | null} run
   */
  async load(run) {
    const outputs = run?.outputs.splice(0) ?? [];
    for (const output of outputs) output.look ??= this._fetch(output).catch(() => null);
    for (const { node, number, look } of outputs) {
      const seen = await look;
      if (run && seen) this._add(run, node, number, seen);
    }
  }

  /** @param {any} told what a node has put out */
  _note({ prompt_id: promptId, node, output }) {
    const files = KINDS.flatMap((kind) => output?.[kind] ?? []).filter((file) => file?.filename);
    if (!files.length) return;
    const made = files.map(({ filename, subfolder = "", type = "output" }) => {
      const query = new URLSearchParams({ filename, subfolder, type });
      const isVideo = VIDEO.test(filename);
      return { node: String(node), number: ++this._count, route: `/view?${query}`, isVideo, look: null };
    });
    for (const run of this._madeFrom(promptId, String(node))) {
      run.outputs.push(...made);
      run.outputs.splice(MAX_PER_RUN);
    }
    this.store.dispatchEvent(new CustomEvent("runs"));
  }

  /**
   * @param {string} promptId
   * @param {string} node
   * @returns {Run[]} those whose sampler leads to the node; the last one if that is not known
   */
  _madeFrom(promptId, node) {
    const runs = this.store.runs.filter((run) => run.promptId === promptId);
    const leads = runs.map(({ nodeId }) => this.prompts.leadsTo(promptId, nodeId, node));
    if (leads.includes(null) && !leads.includes(true)) return runs.slice(-1);
    return runs.filter((_, i) => leads[i]);
  }

  /** @param {Output} output */
  async _fetch({ route, isVideo }) {
    if (isVideo) return this.looks.videoLook(addressOf(route));
    const response = await get(route);
    const isTooLarge = (/** @type {number} */ size) => size > this.store.limits().bytes * SHARE;
    if (isTooLarge(Number(response.headers.get("content-length")))) {
      await response.body?.cancel();
      return null;
    }
    return this.looks.pictureLook(await response.blob());
  }

  /**
   * @param {Run} run
   * @param {string} outputNode
   * @param {number} seq
   * @param {Look} look
   */
  _add(run, outputNode, seq, look) {
    const { stage, step, totalSteps } = run;
    const facts = { stage, step, totalSteps, decoder: "", cells: null, notFinite: 0, latencyMs: NaN, label: null };
    const about = { ...facts, seq, outputNode, arrivedAt: performance.now() };
    const animation = look.animation && { ...look.animation, run, ...about };
    const bytes = [...run.results, look].reduce((sum, { blob }) => sum + blob.size, 0);
    if (run.results.length === MAX_PER_RUN || bytes > this.store.limits().bytes * SHARE) return;
    this.store.addResult(run, { ...look, ...about, animation });
  }
}
