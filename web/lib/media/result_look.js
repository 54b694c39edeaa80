/** How a file that came of a prompt is shown: a picture, an animated WebP, or a video with a still of it. */

import { isAnimatedWebp } from "./webp.js";

/** @typedef {import("../data/results.js").Look} Look */

const PATIENCE_MS = 20_000;

/**
 * @param {Blob} blob
 * @returns {Promise<Look>}
 */
export async function pictureLook(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  bitmap.close();
  const isAnimated = blob.type === "image/webp" && isAnimatedWebp(new Uint8Array(await blob.slice(0, 64).arrayBuffer()));
  const look = { blob, width, height };
  return { ...look, animation: isAnimated ? /** @type {any} */ ({ ...look }) : null };
}

/**
 * The first picture stands for a video where that does not play.
 *
 * @param {string} address the browser streams it; a strict page lets media come from the server alone
 * @returns {Promise<Look>}
 */
export async function videoLook(address) {
  const player = Object.assign(document.createElement("video"), { muted: true, preload: "auto", src: address });
  try {
    await heard(player, "loadeddata");
    const { videoWidth: width, videoHeight: height } = player;
    const canvas = new OffscreenCanvas(width, height);
    /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(player, 0, 0);
    return { blob: await canvas.convertToBlob(), video: address, width, height, animation: null };
  } finally {
    player.removeAttribute("src");
    player.load(); // nothing more
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
