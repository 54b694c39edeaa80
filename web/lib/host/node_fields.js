/**
 * The fields of a 'Side-Stream Preview' node: each says that it inherits the user's settings until it
 * is changed; advanced ones are folded away.
 */

import { usesVueNodes } from "./comfy.js";
import { setStyleText } from "./page.js";
import { t } from "./strings.js";

// Of the classic canvas, which adds the gap to every height.
const WIDGET_HEIGHT = 20;
const WIDGET_GAP = 4;

/**
 * @param {any} node a LGraphNode that was just made
 * @param {Record<string, { min?: number }>} fields
 */
export function prepareFields(node, fields) {
  const inputs = node.constructor.nodeData?.input?.optional ?? {};
  for (const widget of node.widgets ?? []) {
    const [type, options] = inputs[widget.name] ?? [];
    if (options?.advanced) foldAway(node, widget);
    if (type === "INT") sayInherited(widget, options.default, fields[widget.name]?.min ?? 0);
  }
  // Nodes 2.0 take the text from the style sheet.
  setStyleText("--ss-inherited", t("node.inherited"));
}

/**
 * On the classic canvas pages hide advanced widgets but keep room for them; older ones do not even
 * read from the node's definition which ones these are.
 *
 * @param {any} node
 * @param {any} widget
 */
function foldAway(node, widget) {
  widget.advanced = true;
  const kind = Object.getPrototypeOf(widget);
  const computeSize = () => [0, node.showAdvanced ? WIDGET_HEIGHT : -WIDGET_GAP];
  Object.defineProperty(widget, "computeSize", {
    configurable: true,
    // Nodes 2.0 can be switched on and off at any time.
    get: () => (usesVueNodes() ? Reflect.get(kind, "computeSize", widget) : computeSize),
    set: (value) => Object.defineProperty(widget, "computeSize", { configurable: true, writable: true, value }),
  });
}

/**
 * @param {any} widget of a number
 * @param {number} inherited the value that sets nothing
 * @param {number} min the least that it can be set to
 */
function sayInherited(widget, inherited, min) {
  const kind = Object.getPrototypeOf(widget);
  Object.defineProperty(widget, "_displayValue", {
    configurable: true,
    get: () => (widget.value === inherited ? t("node.inherited") : Reflect.get(kind, "_displayValue", widget)),
  });
  const { callback } = widget;
  let last = inherited;
  widget.callback = function (/** @type {any[]} */ ...args) {
    const result = callback?.apply(this, args); // which rounds the value
    // There is nothing between inheriting and the least number.
    if (widget.value < min && widget.value !== inherited) widget.value = last === inherited ? min : inherited;
    last = widget.value;
    return result;
  };
}
