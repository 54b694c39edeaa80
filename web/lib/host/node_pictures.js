/** ComfyUI's own pictures on nodes: the page's store of them, and the elements that show them. */

import { app, nodeByExecutionId } from "./comfy.js";

/** In animation frames, for the page to read a new preview. */
const PATIENCE = 120;
/** The page reads no previews of nodes that are out of view. */
const LOOK_AGAIN_MS = 500;

/** The page's store of pictures, filtered. Pages without one show every picture. */
export class NodePictures {
  constructor() {
    /** @type {any} */
    this._store = null;
    this._holds = false;
  }

  /** Keep the preview that is being announced from the page. */
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
    this._store ??= this._joined(pagesStore());
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
 * The page's own store of the pictures on its nodes; null before it has any, and on pages that keep
 * them elsewhere.
 *
 * @returns {any}
 */
function pagesStore() {
  const root = /** @type {any} */ (document.querySelector("#vue-app"));
  return root?.__vue_app__?.config.globalProperties.$pinia?._s?.get("nodeOutput") ?? null;
}

/**
 * Newer pages count the uses of a picture's address and revoke it themselves.
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
export async function playOnCanvas(executionId) {
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
