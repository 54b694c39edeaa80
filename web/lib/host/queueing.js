/** The request that queues a prompt, which the page sends through `api.fetchApi`. */

import { openWorkflow } from "./comfy.js";

/**
 * Take part in the queueing of prompts, keeping whatever other packs do there: `change` may add to
 * the request's body, `queued` hears the prompt's id.
 *
 * @param {{ fetchApi: any }} server ComfyUI's API object
 * @param {(body: any) => void} change
 * @param {(promptId: string, prompt: any, workflow: import("./comfy.js").Workflow, graph: object | null) => void} queued
 */
export function joinQueueing(server, change, queued) {
  const before = /** @type {(...args: any[]) => Promise<Response>} */ (server.fetchApi);
  // All arguments are passed on, and `this` is not needed: wrappers of other packs may omit it.
  server.fetchApi = async function (/** @type {any[]} */ ...args) {
    const [route, options, ...more] = args;
    const isPrompt = /^\/prompt\/?(\?|$)/.test(route) && options?.method?.toUpperCase() === "POST";
    const body = isPrompt && typeof options.body === "string" ? parsed(options.body) : null;
    if (!body?.prompt) return before.apply(server, args);
    const workflow = openWorkflow();
    change(body);
    const response = await before.call(server, route, { ...options, body: JSON.stringify(body) }, ...more);
    try {
      const { prompt_id } = response.ok ? await response.clone().json() : {};
      if (prompt_id) queued(prompt_id, body.prompt, workflow, body.extra_data?.extra_pnginfo?.workflow ?? null);
    } catch (error) {
      console.warn("[SideStream] The answer to a queued prompt could not be read; its runs have no names.", error);
    }
    return response;
  };
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
