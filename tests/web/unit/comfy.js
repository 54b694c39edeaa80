/** What ComfyUI's page serves as /scripts/api.js and /scripts/app.js, and made-up messages of its server. */

export const stored = {};
export const answers = {};

export const api = Object.assign(new EventTarget(), {
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

/** Let a preview arrive: its facts, then its picture of that many bytes. */
export function preview(step, { size = 10, run = "r", prompt = "p", node = "10", ...facts } = {}) {
  tell("sidestream.frame", { run, node_id: node, prompt_id: prompt, seq: step, step, total_steps: 20, dropped: 0, ...facts });
  tell("b_preview_with_metadata", { nodeId: node, promptId: prompt, blob: new Blob([new Uint8Array(size)]) });
}

export function previews(count, { first = 1, ...facts } = {}) {
  for (let step = first; step < first + count; step++) preview(step, facts);
}

export function endRun(run = "r") {
  tell("sidestream.run", { run, state: "end", dropped: 0, outcomes: {} });
}
