/** The metadata of a preview, as the server sends it. */

const PREVIEW_WITH_METADATA = 4;

/**
 * @param {unknown} data a message of the websocket
 * @returns {Record<string, any> | null} what stands before the picture; null for any other message
 */
export function metadataOf(data) {
  if (!(data instanceof ArrayBuffer) || data.byteLength < 8) return null;
  const view = new DataView(data);
  if (view.getUint32(0) !== PREVIEW_WITH_METADATA) return null;
  try {
    return JSON.parse(new TextDecoder().decode(new Uint8Array(data, 8, view.getUint32(4))));
  } catch {
    return null; // the page will say so
  }
}
