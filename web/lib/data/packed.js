/** Objects that are kept but rarely needed, as compressed JSON outside of the page's heap. */

const ZIPPED = "application/gzip";

/**
 * @param {object} object
 * @returns {Promise<Blob | null>} null if the browser could not do it
 */
export async function packed(object) {
  const plain = new Blob([JSON.stringify(object)], { type: "application/json" });
  if (typeof CompressionStream !== "function") return plain;
  try {
    const zipped = await new Response(plain.stream().pipeThrough(new CompressionStream("gzip"))).blob();
    return zipped.slice(0, zipped.size, ZIPPED);
  } catch {
    return null;
  }
}

/**
 * @param {Blob} blob that `packed` made
 * @returns {Promise<any>}
 */
export function unpacked(blob) {
  if (blob.type !== ZIPPED) return new Response(blob).json();
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).json();
}
