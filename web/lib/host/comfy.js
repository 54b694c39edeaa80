/** ComfyUI's page as SideStream sees it: the only module that imports it. */

import { api as pageApi } from "../../../../scripts/api.js";
import { app as pageApp } from "../../../../scripts/app.js";

export const app = pageApp;
export const api = pageApi;

/**
 * Listen to the server's messages, and to the page's own events about the server.
 *
 * @param {string} event
 * @param {(detail: any) => void} hear
 */
export function listen(event, hear) {
  api.addEventListener(/** @type {any} */ (event), (/** @type {any} */ { detail }) => hear(detail));
}

/**
 * Listen to the ends of prompts. A node that blocks those behind it has its message sent as an error, too.
 *
 * @param {(promptId: string | undefined) => void} hear
 */
export function listenToEnds(hear) {
  for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
    listen(name, (told) => {
      if (told?.exception_type !== "ExecutionBlocked") hear(told?.prompt_id);
    });
  }
}

/** The id under which the server knows this page. */
export function clientId() {
  return api.clientId ?? api.initialClientId ?? "";
}

/**
 * The id of a preview's prompt, whose key differs by the page's version.
 *
 * @param {Record<string, any>} detail of the event `b_preview_with_metadata`
 * @returns {string}
 */
export function promptOf(detail) {
  return detail.promptId ?? detail.jobId ?? "";
}

/** @param {string} route below /api */
export async function get(route) {
  const response = await api.fetchApi(route, { cache: "no-store" });
  if (!response.ok) throw new Error(`${route}: ${response.status}`);
  return response;
}

/**
 * @param {string} route below /api
 * @returns {Promise<any>}
 */
export async function getJson(route) {
  return (await get(route)).json();
}

/**
 * @param {string} route below /api
 * @param {object} what
 */
export function postJson(route, what) {
  const headers = { "Content-Type": "application/json" };
  return api.fetchApi(route, { method: "POST", headers, body: JSON.stringify(what) });
}

/**
 * @param {string} route below /api
 * @returns {string} where the browser itself finds it
 */
export function addressOf(route) {
  return api.apiURL(route);
}

/**
 * The node that an execution id names in the open workflow; "12:3" is node 3 inside subgraph 12.
 *
 * @param {string} executionId
 * @returns {any} a LGraphNode, or null
 */
export function nodeByExecutionId(executionId) {
  /** @type {any} */
  let graph = /** @type {any} */ (app).rootGraph ?? app.graph;
  let node = null;
  for (const part of String(executionId).split(":")) {
    const number = Number(part);
    node = graph?.getNodeById(Number.isNaN(number) ? part : number) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/** The workflow that is open on the canvas; null if the page does not say. */
export function openWorkflow() {
  const workflows = /** @type {any} */ (app.extensionManager).workflow;
  const opened = workflows?.activeWorkflow ?? null;
  const name = String(opened?.filename ?? "").replace(/\.json$/, "");
  return { opened, name, id: idOf(/** @type {any} */ (app).rootGraph ?? app.graph) };
}

/** @typedef {ReturnType<typeof openWorkflow>} Workflow */

/**
 * Put a saved workflow on the canvas, beside those that are open.
 *
 * @param {any} graph
 * @param {string} name
 */
export function showWorkflow(graph, name) {
  return app.loadGraphData(graph, true, true, name);
}

/**
 * @param {any} graph as the page has it, or as it is saved
 * @returns {string | null} what tells it from others; null for one that was made without
 */
export function idOf(graph) {
  return /[1-9a-f]/.test(graph?.id ?? "") ? graph.id : null;
}

/**
 * @param {Pick<Workflow, "opened" | "id">} workflow
 * @returns {boolean} whether it is on the canvas, as far as the page can tell
 */
export function isOpen({ opened, id }) {
  const now = openWorkflow();
  if (id !== null && now.id !== null && id !== now.id) return false;
  const workflows = /** @type {any} */ (app.extensionManager).workflow;
  return opened === null || opened === now.opened || !workflows?.isOpen?.(opened);
}

/** Whether the page draws nodes with Vue, not on the classic canvas. */
export function usesVueNodes() {
  return Boolean(/** @type {any} */ (globalThis).LiteGraph?.vueNodesMode);
}

/**
 * @param {string} tab the id of one in the sidebar
 * @returns {{ eye: Element | null, shortcut: string }} its button, and the key that opens it
 */
export function sidebarButton(tab) {
  const eye = document.querySelector(`.${tab}-tab-button, [data-testid="${tab}-tab-button"]`);
  /** @type {any[]} */
  const commands = /** @type {any} */ (app.extensionManager).command.commands ?? [];
  const command = commands.find(({ id }) => id === `Workspace.ToggleSidebarTab.${tab}`);
  return { eye, shortcut: command?.keybinding?.combo?.toString() ?? "" };
}

/**
 * @param {string} id
 * @returns {unknown}
 */
export function settingValue(id) {
  return app.extensionManager.setting.get(id);
}

/**
 * @param {string} id
 * @param {() => void} act called when the setting has another value, until `signal` aborts
 * @param {AbortSignal} signal
 */
export function onSetting(id, act, signal) {
  // The page notifies before the value is there.
  const actSoon = () => queueMicrotask(() => signal.aborted || act());
  app.ui.settings.addEventListener(`${id}.change`, actSoon, { signal });
}

/**
 * @param {string} id
 * @param {unknown} value
 */
export function storeSetting(id, value) {
  return app.extensionManager.setting.set(id, value);
}

/**
 * @param {"error" | "info" | "success" | "warn"} severity
 * @param {string} detail
 */
export function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "SideStream", detail, life: 6000, styleClass: "ss-toast" });
}
