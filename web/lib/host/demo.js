/** The demo graph on the canvas, when the page was opened for it: `?sidestream-demo=1`. */

import { app, getJson } from "./comfy.js";

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
  try {
    const graph = await getJson(`/workflow_templates/${encodeURIComponent(pack)}/${GRAPH}.json`);
    await app.loadGraphData(graph, true, true, GRAPH);
  } catch (error) {
    console.warn("[SideStream] The demo graph could not be loaded; the page stays as it is.", error);
  }
}
