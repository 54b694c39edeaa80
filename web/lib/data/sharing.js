/** Whether this user shares previews on the watch page, and its address. */

import { getJson, postJson } from "../host/comfy.js";

const ROUTE = "/sidestream/sharing";
const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;

/**
 * @typedef {object} Shared The server's answer.
 * @property {string} user which of ComfyUI's users this is
 * @property {boolean} on
 * @property {string} key empty until it is first switched on
 * @property {number} watchers who watch now
 * @property {string | null} network_address of the server, for other machines
 */

export class Sharing {
  constructor() {
    /** @type {Shared | null} null if the server did not answer */
    this.told = null;
  }

  /** Sent with each prompt, so that the server knows whose switch applies to it. */
  get mark() {
    return this.told ? { user: this.told.user } : {};
  }

  /** Ask the server. */
  async load() {
    try {
      this.told = await getJson(ROUTE);
    } catch (error) {
      console.warn("[SideStream] The server does not say whose prompts these are, so they are not shared.", error);
    }
  }

  /**
   * Throws if the server refuses.
   *
   * @param {{ on: boolean } | { renew: true }} what
   */
  async change(what) {
    const response = await postJson(ROUTE, what);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    this.told = answer;
  }
}

/**
 * The watch page's address, for other devices where there is one.
 *
 * @param {Shared} told
 * @param {URL} [page] watch.html as this page knows it
 * @returns {{ address: string, host: string, reach: "all" | "replaced" | "here" }} `here`: this computer alone
 */
export function watchAddress(told, page = new URL("../../watch.html", import.meta.url)) {
  const address = new URL(page);
  const host = address.hostname;
  const isLocal = LOOPBACK.test(host);
  if (isLocal && told.network_address) address.hostname = told.network_address;
  address.search = "";
  address.hash = told.key;
  return { address: address.href, host, reach: !isLocal ? "all" : told.network_address ? "replaced" : "here" };
}
