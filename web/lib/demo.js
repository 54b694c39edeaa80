/** The demo graph on the canvas, when the page was opened for it: `?sidestream-demo=1`. */

import { api, app } from "./comfy.js";

const PARAMETER = "sidestream-demo";
const GRAPH = "sidestream_demo";

/** @returns {boolean} whether this page was opened to show the demo */
export function isDemo() {
  return new URLSearchParams(location.search).has(PARAMETER);
}

/** @param {string} pack the name of the pack's folder */
export async function loadDemo(pack) {
  const address = new URL(location.href);
  address.searchParams.delete(PARAMETER);
  history.replaceState(history.state, "", address);
  const response = await api.fetchApi(`/workflow_templates/${encodeURIComponent(pack)}/${GRAPH}.json`);
  if (!response.ok) {
    console.warn(`[SideStream] The demo graph could not be loaded (${response.status}).`);
    return;
  }
  await app.loadGraphData(await response.json(), true, true, GRAPH);
}
