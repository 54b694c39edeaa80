/**
 * ComfyUI's own pictures on nodes: which of the pack's previews the page may put there.
 *
 * The page puts every preview on its node, whenever it comes, and before the node's own output. Held
 * back are those of a node that has shown its output, or is at work on a newer prompt; those of a
 * prompt from another workflow than the one on the canvas; and, once a node plays an animation, the
 * stills that would replace it. Other listeners still receive every preview; only the page's own
 * store of pictures skips these.
 */

import { listen, promptOf, usesVueNodes } from "../host/comfy.js";
import { NodePictures, playOnCanvas } from "../host/node_pictures.js";
import { newestAnimation } from "./store.js";

/** @typedef {import("./prompts.js").Prompts} Prompts */
/** @typedef {import("./store.js").FrameStore} FrameStore */
/** @typedef {import("./store.js").Run} Run */

const MAX_NODES = 2000;

/** Kinds of output that nodes show as pictures. */
const PICTURES = ["images", "gifs", "video", "a_images", "b_images"];

/**
 * Listens behind `wire.receive`, which has put the picture into the store, and before the page.
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
  const page = new NodePictures();

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
