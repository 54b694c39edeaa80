/**
 * ComfyUI's own pictures on nodes: which of the pack's previews the page may put there.
 *
 * The page puts every preview on its node, whenever it comes, and before the node's own output. Held
 * back are those of a node that has shown its output, or is at work on a newer prompt; those of a
 * prompt from another workflow than the one on the canvas; and, once a node plays an animation, the
 * stills that would take its place. All listeners hear of all previews as before, only the page's
 * own store of pictures does not take these.
 */

import { api, app, nodeByExecutionId, nodePictures, promptOf, usesVueNodes } from "./comfy.js";
import { newestAnimation } from "../data/store.js";

/** @typedef {import("../data/prompts.js").Prompts} Prompts */
/** @typedef {import("../data/store.js").FrameStore} FrameStore */
/** @typedef {import("../data/store.js").Run} Run */

/** In frames of the screen, until the page has taken a new preview in. */
const PATIENCE = 120;
/** The page takes none in for nodes that are out of view. */
const LOOK_AGAIN_MS = 500;
const MAX_NODES = 2000;

/** Kinds of output that nodes show as pictures. */
const PICTURES = ["images", "gifs", "video", "a_images", "b_images"];

/**
 * Listens behind `wire.listen`, which has put the picture into the store, and before the page.
 *
 * @param {FrameStore} store
 * @param {Prompts} prompts
 */
export function guardPictures(store, prompts) {
  /** @type {Map<string, string>} the prompt that is or was last at work, by node */
  const atWork = new Map();
  /** @type {Map<string, string>} the prompt whose output a node has shown, by node */
  const outputs = new Map();
  /** @type {Map<string, Run>} whose preview the page shows, by node */
  const shown = new Map();
  const page = new PagePictures();

  /** @param {any} detail of a preview */
  function onPreview(detail) {
    const promptId = promptOf(detail);
    const run = store.runs.findLast((one) => one.nodeId === detail.nodeId && one.promptId === promptId);
    if (!run || run.foreign) return;
    const animation = newestAnimation(run);
    const isStill = detail.blob !== animation?.blob;
    const node = detail.displayNodeId;
    const isElsewhere = !prompts.isOnCanvas(promptId);
    const isLate = outputs.get(detail.nodeId) === promptId || (atWork.get(node) ?? promptId) !== promptId;
    if (isElsewhere || isLate || (animation && isStill)) page.holdBack();
    else {
      remember(shown, node, run);
      if (!isStill && !usesVueNodes()) void playOnCanvas(node);
    }
    // The last one may have come while the page was changing the workflow.
    if (isElsewhere && shown.get(node) === run && shown.delete(node)) page.clear(node);
  }

  listen("b_preview_with_metadata", onPreview);
  // Follows the other at once, when all who listen have heard of it.
  listen("b_preview", () => page.letPass());
  listen("progress_state", ({ prompt_id: promptId, nodes }) => {
    for (const [id, node] of Object.entries(nodes ?? {})) {
      if (node.state === "running") remember(atWork, node.display_node_id ?? id, promptId);
    }
  });
  listen("executed", ({ node, display_node: display, prompt_id: promptId, output }) => {
    if (!PICTURES.some((kind) => output?.[kind]?.length)) return;
    remember(outputs, String(node), promptId);
    const on = String(display ?? node);
    if (shown.get(on)?.promptId === promptId) page.clear(on);
  });
}

/**
 * @param {string} event
 * @param {(detail: any) => void} hear
 */
function listen(event, hear) {
  api.addEventListener(/** @type {any} */ (event), (/** @type {any} */ { detail }) => hear(detail));
}

/**
 * @template T
 * @param {Map<string, T>} map
 * @param {string} key
 * @param {T} value
 */
function remember(map, key, value) {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > MAX_NODES) map.delete(oldest);
}

/** The page's store of pictures, with a say in what it takes. On pages that have none it takes all. */
class PagePictures {
  constructor() {
    /** @type {any} */
    this._store = null;
    this._holds = false;
  }

  /** The preview that is being told of is not for the page. */
  holdBack() {
    this._holds = this._open();
    queueMicrotask(() => this.letPass());
  }

  letPass() {
    this._holds = false;
  }

  /** @param {string} executionId of the node to take the preview from, at once */
  clear(executionId) {
    if (!this._open()) return;
    const { _store: store } = this;
    const node = nodeByExecutionId(executionId);
    if (!node) return;
    const before = store.getNodePreviews(node) ?? [];
    store.setNodePreviewsByExecutionId(executionId, []);
    if (!countsUses(store)) before.forEach(URL.revokeObjectURL);
  }

  /** @returns {boolean} whether there is such a store */
  _open() {
    this._store ??= this._joined(nodePictures());
    return this._store !== null;
  }

  /** @param {any} store */
  _joined(store) {
    if (!store?.setNodePreviewsByExecutionId || !store.revokePreviewsByExecutionId) return null;
    const { setNodePreviewsByExecutionId: set, revokePreviewsByExecutionId: revoke } = store;
    store.setNodePreviewsByExecutionId = (/** @type {string} */ id, /** @type {string[]} */ addresses) => {
      if (!this._holds) return set(id, addresses);
      if (!countsUses(store)) addresses.forEach(URL.revokeObjectURL);
    };
    store.revokePreviewsByExecutionId = (/** @type {string} */ id) => {
      if (!this._holds) return revoke(id);
    };
    return store;
  }
}

/**
 * Newer pages forget the address of a picture when nobody uses it any more.
 *
 * @param {any} store
 */
function countsUses(store) {
  return "revokePreviewsByLocatorId" in store;
}

/**
 * The classic canvas shows the first frame only, unless its node is marked as animated: then it has
 * an element of its own for the picture. The page takes the mark away with every new preview.
 *
 * @param {string} executionId of the node that shows the preview; the subgraphs around it do, too
 */
async function playOnCanvas(executionId) {
  const parts = executionId.split(":");
  const nodes = parts.map((_, i) => nodeByExecutionId(parts.slice(0, i + 1).join(":"))).filter(Boolean);
  await Promise.all(nodes.map((node) => markAnimated(node, node.preview)));
}

/** @type {WeakMap<object, unknown>} for each node that waits for its picture, what waits */
const waiting = new WeakMap();

/**
 * @param {any} node a LGraphNode
 * @param {unknown} before its preview until now
 */
async function markAnimated(node, before) {
  const wait = {};
  waiting.set(node, wait);
  for (let waited = 0; node.preview === before || !isRead(node); ) {
    if (waited === PATIENCE || !node.graph || waiting.get(node) !== wait) return;
    if (isInView(node)) waited += 1;
    await (isInView(node) ? drawn(node) : new Promise((done) => setTimeout(done, LOOK_AGAIN_MS)));
  }
  if (!showsPictures(node)) return;
  const [picture] = node.imgs;
  node.animatedImages = true;
  // Older pages make the element in one drawing, and put it where it belongs in the next.
  picture.style.visibility = "hidden";
  for (let drawings = 0; drawings < 3; drawings++) await drawn(node);
  picture.style.visibility = "";
}

/**
 * @param {any} node
 * @returns {boolean} whether the page has read the preview, which may be cleared meanwhile
 */
function isRead(node) {
  return Boolean(node.preview?.[0]) && node.imgs?.[0]?.src === node.preview[0];
}

/**
 * Newer pages draw no picture on the classic node of a subgraph, though it has one: an element for
 * it would only make the node higher.
 *
 * @param {any} node
 */
function showsPictures(node) {
  return !node.subgraph || node.widgets?.some((/** @type {any} */ { name }) => String(name).startsWith("$$"));
}

/** @param {any} node */
function isInView(node) {
  return /** @type {any} */ (app.canvas).visible_nodes.includes(node);
}

/** @param {any} node */
function drawn(node) {
  node.setDirtyCanvas(true, true);
  return new Promise(requestAnimationFrame);
}
