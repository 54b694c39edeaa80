/** Sounds of runs: announced by the server, and fetched when the user wants to hear them. */

import { get } from "../host/comfy.js";

/** @typedef {import("./store.js").Sound} Sound */
/** @typedef {import("./store.js").FrameStore} FrameStore */

/** @type {WeakMap<Sound, Promise<Blob | null>>} requests in flight */
const asked = new WeakMap();

/**
 * A sound's file; null if the server no longer has it.
 *
 * @param {FrameStore} store
 * @param {Sound} sound
 */
export function fileOf(store, sound) {
  if (sound.blob) return Promise.resolve(sound.blob);
  const known = asked.get(sound);
  if (known) return known;
  const fetching = fetched(store, sound).finally(() => asked.delete(sound));
  asked.set(sound, fetching);
  return fetching;
}

/**
 * @param {FrameStore} store
 * @param {Sound} sound
 * @returns {Promise<Blob | null>}
 */
async function fetched(store, sound) {
  try {
    const blob = await (await get(`/sidestream/sound/${sound.id}`)).blob();
    store.keepSound(sound, blob);
    return blob;
  } catch {
    store.dropSound(sound); // the server keeps few, and none across a restart
    return null;
  }
}
