/** Lets Node load the page's modules: they are ES modules, and ComfyUI's own are stood in for by comfy.js. */

import { register } from "node:module";
import { isMainThread } from "node:worker_threads";

if (isMainThread) register(import.meta.url);

export async function resolve(specifier, context, next) {
  if (/\/scripts\/(api|app)\.js$/.test(specifier)) specifier = new URL("comfy.js", import.meta.url).href;
  const found = await next(specifier, context);
  return found.url.startsWith("file:") ? { ...found, format: "module" } : found;
}
