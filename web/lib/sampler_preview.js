/**
 * ComfyUI's own picture on a sampler's node: once it has an animation, this plays on there until a
 * newer one comes, instead of being replaced at once by the still of the next step.
 */

import { api, nodeByExecutionId, promptOf, usesVueNodes } from "./comfy.js";
import { newestAnimation } from "./store.js";

/** @typedef {import("./store.js").FrameStore} FrameStore */

/** In frames of the screen, until the page has taken a new preview in. */
const PATIENCE = 120;

/**
 * Listens behind `wire.listen`, which has put the picture into the store, and before the page, which
 * would put it on the node, and let go of the animation. Stills that are held back here still come as
 * the page's plain `b_preview`.
 *
 * @param {FrameStore} store
 */
export function keepAnimationsOnSamplers(store) {
  api.addEventListener("b_preview_with_metadata", (event) => {
    const { detail } = /** @type {any} */ (event);
    const run = store.runs.findLast((one) => one.nodeId === detail.nodeId && one.promptId === promptOf(detail));
    const animation = run?.live && !run.foreign ? newestAnimation(run) : null;
    if (!run || !animation) return;
    if (detail.blob === animation.blob) {
      if (!usesVueNodes()) void playOnCanvas(detail.displayNodeId);
    } else if (detail.blob === run.frames.at(-1)?.blob) event.stopImmediatePropagation();
  });
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

/**
 * @param {any} node a LGraphNode
 * @param {unknown} before its preview until now
 */
async function markAnimated(node, before) {
  for (let waited = 0; node.preview === before || node.imgs?.[0]?.src !== node.preview?.[0]; waited++) {
    if (waited === PATIENCE) return;
    await drawn(node);
  }
  const [picture] = node.imgs;
  node.animatedImages = true;
  // Older pages make the element in one drawing, and put it where it belongs in the next.
  picture.style.visibility = "hidden";
  for (let drawings = 0; drawings < 3; drawings++) await drawn(node);
  picture.style.visibility = "";
}

/** @param {any} node */
function drawn(node) {
  node.setDirtyCanvas(true, true);
  return new Promise(requestAnimationFrame);
}
