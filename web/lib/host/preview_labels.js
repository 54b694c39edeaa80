/** SideStream's labels of previews, which the page would drop: it knows ComfyUI's own metadata only. */

import { api, promptOf } from "./comfy.js";

const PREVIEW = "b_preview_with_metadata";
const PREVIEW_WITH_METADATA = 4;

/** Let the page's event of a preview have its label, as `sidestream`, for all who listen. */
export function keepLabels() {
  const page = /** @type {any} */ (api);
  const dispatch = page.dispatchCustomEvent;
  page.dispatchCustomEvent = function (/** @type {string} */ type, /** @type {any} */ detail, /** @type {any[]} */ ...more) {
    if (type === PREVIEW) {
      // The page does this while it reads the socket's message, which is the event at work now.
      const told = metadataOf(/** @type {any} */ (globalThis.event)?.data);
      const isOf = told?.node_id === detail.nodeId && told?.prompt_id === promptOf(detail);
      if (isOf && told.sidestream) detail.sidestream = told.sidestream;
    }
    return dispatch.call(this, type, detail, ...more);
  };
}

/**
 * @param {unknown} data a message of the websocket
 * @returns {Record<string, any> | null} what stands before the picture; null for any other message
 */
function metadataOf(data) {
  if (!(data instanceof ArrayBuffer) || data.byteLength < 8) return null;
  const view = new DataView(data);
  if (view.getUint32(0) !== PREVIEW_WITH_METADATA) return null;
  try {
    return JSON.parse(new TextDecoder().decode(new Uint8Array(data, 8, view.getUint32(4))));
  } catch {
    return null;
  }
}
