/** A live thumbnail on the 'Side-Stream Preview' node, of the samplers that use its settings. */

import { app, listen, nodeByExecutionId, onSetting, usesVueNodes } from "../host/comfy.js";
import { elementsOf, setText } from "./dom.js";
import { Player } from "../media/player.js";
import { PageRenderer } from "../media/renderer.js";
import { rateOf } from "../data/rates.js";
import { newestAnimation } from "../data/store.js";
import { stepText, t, writing } from "../host/strings.js";

/** @typedef {import("../data/prompts.js").Prompts} Prompts */
/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {import("../data/store.js").FrameStore} FrameStore */
/**
 * @typedef {object} Thumbnail
 * @property {PageRenderer} renderer
 * @property {Player} player over what the renderer draws
 * @property {HTMLElement} caption
 * @property {HTMLElement} element
 * @property {boolean} isOff
 */

const NODE = "SideStreamPreview";
const MAX_SIDE = 512;
const MIN_HEIGHT = 160;

// Modes of nodes that are switched off.
const NEVER = 2;
const BYPASS = 4;

/** @type {WeakMap<object, Thumbnail>} by node of the canvas */
const thumbnails = new WeakMap();

/** @param {any} node a LGraphNode */
export function isPreviewNode(node) {
  return node.comfyClass === NODE;
}

/**
 * Give a preview node its thumbnail.
 *
 * @param {any} node a LGraphNode that was just made
 */
export function addThumbnail(node) {
  if (thumbnails.has(node)) return;
  const element = elementsOf(document);
  const canvas = element("canvas", { width: 1, height: 1 });
  const animation = element("canvas", { class: "ss-node-animation" });
  const caption = element("span", { class: "ss-node-caption" }, t("node.idle"));
  const more = element(
    "button",
    {
      type: "button",
      class: "ss-node-more",
      title: t("node.moreTooltip"),
      "aria-expanded": "false",
      onclick: () => toggleAdvanced(node, more),
    },
    t("node.more"),
  );
  const hideMore = () => (more.hidden = usesVueNodes()); // which have a button of their own for advanced inputs
  hideMore();
  const removed = new AbortController();
  onSetting("Comfy.VueNodes.Enabled", () => requestAnimationFrame(hideMore), removed.signal);
  const row = element("div", { class: "ss-node-row" }, caption, more);
  const box = element("div", { class: "ss-node ss-node-idle", ...writing() }, element("div", { class: "ss-node-picture" }, canvas, animation), row);
  const widget = node.addDOMWidget("sidestream_thumbnail", "sidestream", box, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true,
    getMinHeight: () => MIN_HEIGHT,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  widget.label = t("node.thumbnail");
  const renderer = new PageRenderer(canvas, undefined, MAX_SIDE);
  const player = new Player(animation, MAX_SIDE);
  thumbnails.set(node, { renderer, player, caption, element: box, isOff: false });
  const before = node.onRemoved;
  node.onRemoved = function (/** @type {any[]} */ ...args) {
    removed.abort();
    thumbnails.delete(node);
    renderer.show(null);
    player.close();
    box.classList.add("ss-node-idle");
    setText(caption, t("node.idle"));
    return before?.apply(this, args);
  };
}

/**
 * Draw frames on the nodes that they belong to.
 *
 * @param {FrameStore} store
 * @param {Prompts} prompts
 */
export function drawThumbnails(store, prompts) {
  /** @param {Event} event */
  function onPicture(event) {
    const frame = /** @type {CustomEvent<Frame>} */ (event).detail;
    const { promptId, nodeId, displayNodeId } = frame.run;
    if (!prompts.isOnCanvas(promptId)) return;
    const direct = prompts.previewNodesOf(promptId, nodeId);
    const ids = direct.length ? direct : prompts.previewNodesOf(promptId, displayNodeId);
    for (const id of ids) {
      const node = nodeByExecutionId(id);
      const thumbnail = node && thumbnails.get(node);
      if (thumbnail && !thumbnail.isOff && putOnScreen(node, thumbnail.element)) draw(thumbnail, frame.run);
    }
  }
  store.addEventListener("frame", onPicture);
  store.addEventListener("animation", onPicture);
  listen("graphChanged", sayWhichAreBypassed);
}

/** A node that is switched off sets nothing and shows no previews. */
function sayWhichAreBypassed() {
  const root = /** @type {any} */ (app).rootGraph ?? app.graph;
  for (const graph of [root, ...(root?.subgraphs?.values() ?? [])]) {
    for (const node of graph?._nodes ?? []) {
      const thumbnail = thumbnails.get(node);
      if (thumbnail && isOff(node) !== thumbnail.isOff) showState(node, thumbnail);
    }
  }
}

/** @param {any} node */
function isOff(node) {
  return node.mode === NEVER || node.mode === BYPASS;
}

/**
 * @param {any} node
 * @param {Thumbnail} thumbnail
 */
function showState(node, thumbnail) {
  thumbnail.isOff = isOff(node);
  thumbnail.renderer.show(null);
  thumbnail.player.show(null);
  thumbnail.element.classList.add("ss-node-idle");
  setText(thumbnail.caption, t(thumbnail.isOff ? "node.bypassed" : "node.idle"));
  putOnScreen(node, thumbnail.element);
}

/**
 * Some pages keep the element of an earlier node with the same id when another workflow is opened:
 * then the new one takes its place.
 *
 * @param {any} node
 * @param {HTMLElement} element
 * @returns {boolean} whether it can be seen
 */
function putOnScreen(node, element) {
  if (!element.isConnected && node.graph === app.canvas?.graph) {
    document.querySelector(`[data-node-id="${CSS.escape(node.id)}"] .ss-node`)?.replaceWith(element);
  }
  return element.isConnected;
}

/**
 * @param {Thumbnail} thumbnail
 * @param {import("../data/store.js").Run} run
 */
function draw({ renderer, player, caption, element }, run) {
  const animation = newestAnimation(run);
  const frame = run.frames[run.frames.length - 1];
  element.classList.remove("ss-node-idle");
  player.show(animation);
  if (!animation || !player.shown) renderer.show(frame);
  const rate = rateOf(run.frames);
  const text = [run.title, stepText(frame), rate ? t("stats.perSecond", { rate: rate.toFixed(1) }) : ""];
  setText(caption, text.filter(Boolean).join(" · "));
}

/**
 * @param {any} node
 * @param {HTMLElement} button
 */
function toggleAdvanced(node, button) {
  node.toggleAdvanced?.();
  button.textContent = t(node.showAdvanced ? "node.less" : "node.more");
  button.setAttribute("aria-expanded", String(Boolean(node.showAdvanced)));
}
