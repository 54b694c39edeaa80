/**
 * Turns ComfyUI's events into frames of the store.
 *
 * A preview without SideStream's label is another previewer's.
 */

import { getJson, listen, listenToEnds, promptOf } from "../host/comfy.js";
import { keepLabels } from "../host/preview_labels.js";

/** @typedef {import("./store.js").FrameStore} FrameStore */

const MAX_NODES = 64;

/** @param {FrameStore} store */
export function receive(store) {
  /** @type {Map<string, { value: number, max: number }>} by prompt and node */
  const progress = new Map();
  /** @type {(promptId: string, node: string, at: { value: number, max: number }) => void} */
  const note = (promptId, node, { value, max }) => {
    if (progress.size > MAX_NODES) progress.clear();
    progress.set(`${promptId}/${node}`, { value, max });
  };

  const handlers = {
    /** @param {any} detail */
    b_preview_with_metadata: (detail) => {
      const promptId = promptOf(detail);
      if (detail.sidestream) addOwn(store, detail, promptId);
      else addForeign(store, detail, promptId, progress.get(`${promptId}/${detail.nodeId}`));
    },

    /** @param {any} told */
    "sidestream.run": (told) => {
      const { why, who = "", where = null, missing_decoder: missing = null } = told;
      store.silence = told.state === "none" ? { why, who, where, missing } : null;
      if (told.state === "none") {
        store.dispatchEvent(new CustomEvent("runs"));
        return;
      }
      if (told.state === "end") {
        const run = store.runs.find((known) => known.id === told.run);
        if (!run || (told.stage ?? run.stage) < run.stage) return; // the node samples again by now
        Object.assign(run, { dropped: told.dropped, outcomes: told.outcomes });
        store.close(run, told.finished_early ?? null);
        return;
      }
      const run = store.runOf(told);
      store.reachStage(run, told.stage ?? 1);
      run.settings = told.settings ?? run.settings;
      run.slow = told.slow ?? run.slow;
      run.missing = told.missing_decoder ?? null;
      run.totalSteps ||= told.total_steps;
      run.canFinish = told.can_finish ?? false;
      store.dispatchEvent(new CustomEvent("runs"));
    },

    /** @param {any} told a newer sound of a run, or why there is none */
    "sidestream.sound": (told) => {
      const run = store.runOf(told);
      if (told.why) store.haveNoSound(run, told.why);
      else {
        store.addSound({
          run,
          stage: told.stage ?? 1,
          step: told.step,
          totalSteps: told.total_steps,
          seq: told.step,
          cells: null,
          label: null,
          id: told.id,
          seconds: told.seconds,
          ofSeconds: told.of_seconds,
          blob: null,
        });
      }
    },

    /** @param {any} detail */
    progress: (detail) => {
      if (!detail.node) return;
      note(detail.prompt_id, String(detail.node), detail);
      store.advance(detail.prompt_id, String(detail.node), detail.value, detail.max);
    },

    /** @param {any} detail states of nodes; newer versions of ComfyUI say that a model is being loaded */
    progress_state: (detail) => {
      const running = Object.entries(detail.nodes ?? {}).filter(([, { state }]) => state === "running");
      // It comes before a node's picture, and `progress` after it.
      for (const [node, at] of running) note(detail.prompt_id, node, at);
      const loading = running.some(([, { activity }]) => activity === "loading");
      if (loading === store.loading) return;
      store.loading = loading;
      store.dispatchEvent(new CustomEvent("progress"));
    },

    /** @param {any} detail the node that begins; null at the end */
    executing: (detail) => {
      const node = typeof detail === "object" ? detail?.node : detail;
      if (node != null) return;
      store.loading = false;
      store.end(() => true);
    },

    /** @param {any} detail */
    execution_start: (detail) => store.beginPrompt(detail?.prompt_id),

    reconnected: () => void forgetEnded(store),
  };

  keepLabels();
  for (const [name, handle] of Object.entries(handlers)) listen(name, handle);
  listenToEnds((promptId) => {
    if (promptId) store.endPrompt(promptId);
  });
}

/**
 * @param {FrameStore} store
 * @param {any} detail
 * @param {string} promptId
 */
function addOwn(store, { nodeId, displayNodeId, blob, sidestream: facts }, promptId) {
  const run = store.run(facts.run, { promptId, nodeId, displayNodeId });
  store.reachStage(run, facts.stage ?? 1);
  run.dropped = facts.dropped;
  run.outcomes = facts.outcomes ?? run.outcomes;
  run.slow = facts.slow ?? run.slow;
  const picture = {
    seq: facts.seq,
    stage: facts.stage ?? 1,
    step: facts.step,
    totalSteps: facts.total_steps,
    width: facts.width,
    height: facts.height,
    decoder: facts.decoder ?? "",
    cells: facts.grid?.images?.length > 1 ? facts.grid : null, // where there is something to choose from
    notFinite: facts.not_finite ?? 0,
    latencyMs: facts.captured_to_sent_ms,
    label: facts,
    arrivedAt: performance.now(),
    blob,
  };
  if (facts.animation) store.addAnimation(run, picture);
  else store.add(run, picture);
}

/**
 * @param {FrameStore} store
 * @param {any} detail
 * @param {string} promptId
 * @param {{ value: number, max: number } | undefined} progress
 */
function addForeign(store, detail, promptId, progress) {
  if (!detail.nodeId || !detail.blob) return;
  const id = `${promptId}/${detail.nodeId}`;
  const run = store.run(id, {
    promptId,
    nodeId: detail.nodeId,
    displayNodeId: detail.displayNodeId ?? detail.nodeId,
    foreign: true,
  });
  store.add(run, {
    seq: (run.frames.at(-1)?.seq ?? 0) + 1,
    stage: 1,
    step: progress?.value ?? 0,
    totalSteps: progress?.max ?? 0,
    width: 0,
    height: 0,
    decoder: "",
    cells: null,
    notFinite: 0,
    latencyMs: NaN,
    label: null,
    arrivedAt: performance.now(),
    blob: detail.blob,
  });
}

/**
 * After a lost connection: end the runs whose prompts are over.
 *
 * @param {FrameStore} store
 */
async function forgetEnded(store) {
  try {
    const queue = await getJson("/queue");
    const running = new Set(queue.queue_running.map((/** @type {any[]} */ item) => item[1]));
    store.end((run) => !running.has(run.promptId));
  } catch {
    store.end(() => true);
  }
}
