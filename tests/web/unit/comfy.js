/** What ComfyUI's page serves as /scripts/api.js and /scripts/app.js, and made-up messages of its server. */

export const stored = {};
export const answers = {};

export const api = Object.assign(new EventTarget(), {
  dispatchCustomEvent: (event, detail) => tell(event, detail),
  fetchApi: async (route) => Response.json(answers[route]),
  apiURL: (route) => `/api${route}`,
});

export const app = {
  extensionManager: { setting: { get: (id) => stored[id], set: (id, value) => (stored[id] = value) } },
  graph: { getNodeById: () => null },
};

/** Let one message arrive. */
export function tell(event, detail) {
  api.dispatchEvent(new CustomEvent(event, { detail }));
}

/** The bytes of a preview with metadata, without its picture. */
export function message(metadata) {
  const text = new TextEncoder().encode(JSON.stringify(metadata));
  const { buffer } = new Uint8Array([0, 0, 0, 4, 0, 0, text.length >> 8, text.length & 255, ...text]);
  return buffer;
}

/** Let the page hand out what it reads of a message of the socket. */
export function arrive(data, { node, prompt, size = 10 }) {
  globalThis.event = { data };
  const blob = new Blob([new Uint8Array(size)]);
  api.dispatchCustomEvent("b_preview_with_metadata", { nodeId: node, promptId: prompt, blob });
  delete globalThis.event;
}

/** Let a preview arrive, with a picture of that many bytes. */
export function preview(step, { size = 10, run = "r", prompt = "p", node = "10", ...facts } = {}) {
  const sidestream = { run, seq: step, step, total_steps: 20, dropped: 0, ...facts };
  arrive(message({ node_id: node, prompt_id: prompt, sidestream }), { node, prompt, size });
}

export function previews(count, { first = 1, ...facts } = {}) {
  for (let step = first; step < first + count; step++) preview(step, facts);
}

export function endRun(run = "r") {
  tell("sidestream.run", { run, state: "end", dropped: 0, outcomes: {} });
}
