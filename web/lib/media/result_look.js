/** How a file that came of a prompt is shown: a picture, an animated WebP, or a video with a still of it. */

import { isAnimatedWebp } from "./webp.js";

/** @typedef {import("../data/results.js").Look} Look */

const PATIENCE_MS = 20_000;

/**
 * @param {Blob} blob
 * @returns {Promise<Look>}
 */
export async function lookOf(blob) {
  if (blob.type.startsWith("video/")) return videoLook(blob);
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  bitmap.close();
  const isAnimated = blob.type === "image/webp" && isAnimatedWebp(new Uint8Array(await blob.slice(0, 64).arrayBuffer()));
  const look = { blob, width, height };
  return { ...look, animation: isAnimated ? /** @type {any} */ ({ ...look }) : null };
}

/**
 * Its first picture stands for a video where that does not play.
 *
 * @param {Blob} video
 * @returns {Promise<Look>}
 */
async function videoLook(video) {
  const address = URL.createObjectURL(video);
  const player = Object.assign(document.createElement("video"), { muted: true, preload: "auto", src: address });
  try {
    await heard(player, "loadeddata");
    const { videoWidth: width, videoHeight: height } = player;
    const canvas = new OffscreenCanvas(width, height);
    /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(player, 0, 0);
    return { blob: await canvas.convertToBlob(), video, width, height, animation: null };
  } finally {
    player.removeAttribute("src");
    player.load();
    URL.revokeObjectURL(address);
  }
}

/**
 * @param {HTMLVideoElement} player
 * @param {string} event
 */
function heard(player, event) {
  return new Promise((resolve, reject) => {
    player.addEventListener(event, resolve, { once: true });
    player.addEventListener("error", reject, { once: true });
    setTimeout(reject, PATIENCE_MS);
  });
}
