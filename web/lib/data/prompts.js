/**
 * What the queued prompts look like: names of nodes, and which 'Side-Stream Preview' each sampler
 * uses. Read from the request that queues a prompt, so that it stays right when another workflow is
 * opened meanwhile; after a reload of the page, from the server's queue.
 */

import { getJson, idOf, isOpen, nodeByExecutionId } from "../host/comfy.js";
import { packed } from "./packed.js";

/** @typedef {Record<string, { class_type: string, inputs: Record<string, any>, _meta?: { title?: string } }>} Prompt */

/**
 * @typedef {object} Known
 * @property {Prompt} nodes
 * @property {import("../host/comfy.js").Workflow} workflow
 * @property {Promise<Blob | null> | null} graph the workflow as it was saved in the prompt, packed
 *
 * @typedef {object} Origin What a run is made of, as far as its prompt says.
 * @property {string} workflow its name
 * @property {number | null} seed
 * @property {string} sampler
 * @property {number | null} steps
 * @property {number | null} cfg
 */

/** Beyond these only prompts that are not over are known. */
const KEPT = 100;
const PREVIEW_NODE = "SideStreamPreview";

/** Outputs of these types carry results, not the MODEL that a sampler works with. */
const RESULTS = new Set([
  ..."LATENT IMAGE MASK CONDITIONING VAE CLIP SIGMAS NOISE SAMPLER".split(" "),
  ..."INT FLOAT STRING BOOLEAN".split(" "),
]);

export class Prompts {
  constructor() {
    /** @type {Map<string, Known>} */
    this._known = new Map();
    /** @type {Map<string, Record<string, any>>} output types of node classes */
    this._definitions = new Map();
    this._asking = false;
    /** Called when a prompt became known later than its runs. */
    this.learnt = (/** @type {string} */ _promptId) => {};
    /** The prompts that are not over. */
    this.needed = () => /** @type {Set<string>} */ (new Set());
  }

  /** @param {Record<string, any>} definitions ComfyUI's node definitions by class */
  define(definitions) {
    this._definitions = new Map(Object.entries(definitions));
  }

  /**
   * @param {string} promptId
   * @param {Prompt} nodes
   * @param {import("../host/comfy.js").Workflow} workflow from which it was queued
   * @param {object | null} [graph] the workflow itself
   */
  remember(promptId, nodes, workflow, graph = null) {
    this._known.set(promptId, { nodes, workflow, graph: graph && packed(graph) });
    if (this._known.size <= KEPT) return;
    const needed = this.needed().add(promptId);
    for (const known of this._known.keys()) {
      if (this._known.size > KEPT && !needed.has(known)) this._known.delete(known);
    }
  }

  /** @param {any[]} item of the server's queue, which this page may not have put there */
  learn([, promptId, nodes, extra]) {
    if (this._known.has(promptId)) return;
    const graph = extra?.extra_pnginfo?.workflow ?? null;
    this.remember(promptId, nodes, { opened: null, name: "", id: idOf(graph) }, graph);
  }

  /** @param {(promptId: string) => boolean} isNeeded forget all others */
  keep(isNeeded) {
    for (const promptId of this._known.keys()) if (!isNeeded(promptId)) this._known.delete(promptId);
  }

  /**
   * What the prompt of a run says about it.
   *
   * @param {Pick<import("./store.js").Run, "promptId" | "nodeId" | "displayNodeId">} run
   */
  about({ promptId, nodeId, displayNodeId }) {
    const title = this.titleOf(promptId, displayNodeId);
    return { title, origin: this.originOf(promptId, nodeId), graph: this._known.get(promptId)?.graph ?? null };
  }

  /**
   * The name of a node as its user sees it.
   *
   * @param {string} promptId
   * @param {string} nodeId
   * @returns {string}
   */
  titleOf(promptId, nodeId) {
    const known = this._known.get(promptId);
    if (!known) void this._ask(promptId);
    const node = known?.nodes[nodeId];
    return node?._meta?.title ?? node?.class_type ?? nodeByExecutionId(nodeId)?.title ?? `#${nodeId}`;
  }

  /**
   * @param {string} promptId
   * @returns {boolean} whether the workflow that it was queued from is on the canvas
   */
  isOnCanvas(promptId) {
    const known = this._known.get(promptId);
    return !known || isOpen(known.workflow);
  }

  /**
   * @param {string} promptId
   * @param {string | undefined} nodeId the sampler
   * @returns {Origin}
   */
  originOf(promptId, nodeId) {
    const known = this._known.get(promptId);
    /** @param {keyof typeof INPUTS} name @param {"number" | "string"} type @returns {any} */
    const fact = (name, type) => (known && nodeId !== undefined ? valueOf(known.nodes, nodeId, INPUTS[name], type) : null);
    return {
      workflow: known?.workflow.name ?? "",
      seed: fact("seed", "number"),
      sampler: fact("sampler", "string") ?? "",
      steps: fact("steps", "number"),
      cfg: fact("cfg", "number"),
    };
  }

  /**
   * @param {string} promptId
   * @returns {string | undefined} the first node that looks like a sampler, before any has begun
   */
  samplerOf(promptId) {
    const nodes = this._known.get(promptId)?.nodes ?? {};
    const has = (/** @type {string} */ id, /** @type {string[]} */ names) => names.some((name) => name in (nodes[id].inputs ?? {}));
    return Object.keys(nodes).find((id) => has(id, SEEDED) && has(id, ["steps", "sigmas"]));
  }

  /**
   * The execution ids of the preview nodes whose settings a sampler uses: the nearest upstream.
   *
   * @param {string} promptId
   * @param {string} nodeId the sampler
   * @returns {string[]}
   */
  previewNodesOf(promptId, nodeId) {
    const prompt = this._known.get(promptId)?.nodes ?? {};
    const found = [];
    const seen = new Set([nodeId]);
    const open = [nodeId];
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      for (const input of Object.values(prompt[at]?.inputs ?? {})) {
        if (!Array.isArray(input) || input.length !== 2) continue;
        const [source, slot] = [String(input[0]), Number(input[1])];
        const kind = prompt[source]?.class_type;
        if (!kind || seen.has(source) || RESULTS.has(this._outputType(kind, slot))) continue;
        seen.add(source);
        if (kind === PREVIEW_NODE) found.push(source);
        else open.push(source);
      }
    }
    return found;
  }

  /**
   * @param {string} promptId
   * @param {string} from a node's execution id
   * @param {string} to
   * @returns {boolean | null} whether what the one node makes goes into the other, by any path;
   *   null if the prompt does not say
   */
  leadsTo(promptId, from, to) {
    const prompt = this._known.get(promptId)?.nodes ?? {};
    if (!prompt[from] || !prompt[to]) return null;
    const seen = new Set([to]);
    for (const at of seen) {
      for (const input of Object.values(prompt[at]?.inputs ?? {})) {
        if (Array.isArray(input) && input.length === 2) seen.add(String(input[0]));
      }
    }
    return seen.has(from);
  }

  /**
   * @param {string} kind
   * @param {number} slot
   * @returns {string}
   */
  _outputType(kind, slot) {
    const type = this._definitions.get(kind)?.output?.[slot];
    return typeof type === "string" ? type : "*";
  }

  /** @param {string} promptId a prompt that this page did not queue */
  async _ask(promptId) {
    if (this._asking) return;
    this._asking = true;
    try {
      const { queue_running: running } = await getJson("/queue");
      const item = running.find((/** @type {any[]} */ entry) => entry[1] === promptId);
      if (this._known.has(promptId)) return; // this page queued it, and the answer took long
      this.learn(item ?? [0, promptId, {}, {}]);
      if (item) this.learnt(promptId);
    } catch {
      // The names remain node ids.
    } finally {
      this._asking = false;
    }
  }
}

/** Where a sampler has its seed, or takes its noise from. */
const SEEDED = ["seed", "noise_seed", "noise"];

/** The inputs that hold each fact, or lead to the node that holds it. */
const INPUTS = {
  seed: [...SEEDED, "value"],
  sampler: ["sampler_name", "sampler", "value"],
  steps: ["steps", "sigmas", "value"],
  cfg: ["cfg", "guider", "value"],
};

/**
 * @param {Prompt} nodes
 * @param {string} id
 * @param {string[]} names of inputs
 * @param {string} type of the value
 * @param {number} [depth]
 * @returns {any} null if none holds it
 */
function valueOf(nodes, id, names, type, depth = 4) {
  const inputs = nodes[id]?.inputs ?? {};
  for (const name of depth > 0 ? names : []) {
    const value = inputs[name];
    if (typeof value === type) return value;
    const found = Array.isArray(value) ? valueOf(nodes, String(value[0]), names, type, depth - 1) : null;
    if (found !== null) return found;
  }
  return null;
}

/**
 * Take the values that preview nodes hold out of a prompt: as inputs they would make
 * ComfyUI recompute everything downstream whenever one changes.
 *
 * @param {Prompt} prompt loses them
 * @param {Iterable<string>} names of settings
 * @returns {Record<string, Record<string, unknown>>} by the nodes' execution ids
 */
export function takeOutValues(prompt, names) {
  /** @type {Record<string, Record<string, unknown>>} */
  const taken = {};
  for (const [id, node] of Object.entries(prompt)) {
    if (node?.class_type !== PREVIEW_NODE) continue;
    for (const name of names) {
      const value = node.inputs?.[name];
      if (value === undefined || Array.isArray(value)) continue; // linked, which is ComfyUI's business
      (taken[id] ??= {})[name] = value;
      delete node.inputs[name];
    }
  }
  return taken;
}
