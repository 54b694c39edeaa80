import assert from "node:assert/strict";
import { test } from "node:test";

import { LiveSettings } from "../../../web/lib/data/live_settings.js";
import { Settings } from "../../../web/lib/data/settings.js";
import { FrameStore } from "../../../web/lib/data/store.js";
import { api, tell } from "./comfy.js";

api.clientId = "me";

/** Live settings whose requests wait until `answer` is called with what the server says. */
async function opened() {
  const asked = [];
  api.fetchApi = (route, { body } = {}) => new Promise((done) => asked.push({ route, sent: body && JSON.parse(body), done }));
  const live = new LiveSettings(new Settings(), new FrameStore(() => ({ frames: 600, bytes: 2 ** 20 })));
  const answer = async (state) => {
    for (const { done } of asked.splice(0)) done(Response.json({ paused: false, prompts: 1, live: {}, runs: [], ...state }));
    await settled();
  };
  live.listen();
  await settled();
  await answer();
  return { live, asked, answer };
}

const settled = () => new Promise(setImmediate);

test("who pauses and resumes at once gets what he wanted last, however late the answers come", async () => {
  const { live, asked, answer } = await opened();
  live.togglePause();
  live.togglePause();
  await settled();
  assert.deepEqual(asked.map(({ sent }) => sent.paused), [true]); // the second one cannot overtake it
  await answer({ paused: true });
  assert.equal(live.paused, false);
  assert.deepEqual(asked.map(({ sent }) => sent.paused), [false]);
  await answer({ paused: false });
  assert.equal(live.paused, false);
});

test("an answer from before a change does not take it back", async () => {
  const { live, asked, answer } = await opened();
  live.changes = { budget: 7 };
  tell("status", { exec_info: { queue_remaining: 1 } });
  live.change("budget", 8);
  await new Promise((done) => setTimeout(done, 200));
  await answer({ live: { budget: 7 } });
  assert.deepEqual(live.changes, { budget: 8 });
  assert.deepEqual(asked.map(({ sent }) => sent.budget), [8]);
  await answer({ live: { budget: 8 } });
  assert.deepEqual(live.changes, { budget: 8 });
});

test("changes are over with their prompt, once the server counts it out", async () => {
  const { live, answer } = await opened();
  live.changes = { budget: 7 };
  tell("execution_success", { prompt_id: "p" });
  await settled();
  await answer({ live: { budget: 7 } }); // to whom asks so early
  tell("status", { exec_info: { queue_remaining: 0 } });
  await settled();
  await answer({ prompts: 0 });
  assert.deepEqual(live.changes, {});
});

test("what is known of a run that began without a network does not wait for its first frame", async () => {
  const { live, asked, answer } = await opened();
  live.paused = true;
  tell("reconnected");
  await settled();
  assert.deepEqual(asked.filter(({ sent }) => sent).map(({ sent }) => sent.paused), [true]);
  const told = {
    ...{ run: "r", prompt_id: "p", node_id: "3", settings: { budget: 5 }, total_steps: 20, can_finish: true },
    ...{ slow: null, missing_decoder: { file: "taew2_1" }, running_ms: 60_000 },
  };
  await answer({ paused: true, runs: [told] });
  assert.deepEqual(live.store.runs, []); // a change of settings brings back nothing that was forgotten
  await answer({ paused: true, runs: [told] });
  assert.equal(live.paused, true);
  const [{ promptId, totalSteps, canFinish, missing }] = live.store.runs;
  const known = { promptId: "p", totalSteps: 20, canFinish: true, missing: { file: "taew2_1" } };
  assert.deepEqual({ promptId, totalSteps, canFinish, missing }, known);
  const elapsed = () => live.store.clock() - live.store.runs[0].begunAt;
  assert.ok(elapsed() >= 60_000);
  tell("reconnected");
  await settled();
  await answer({ paused: true });
  await answer({ paused: true, runs: [{ ...told, running_ms: undefined }] });
  assert.ok(elapsed() >= 60_000); // as known before, by an older server too
});

test("after a reload in a node's second sampling, that is the one that can be finished", async () => {
  const { live, answer } = await opened();
  tell("reconnected");
  await settled();
  const told = { run: "r", prompt_id: "p", node_id: "3", settings: {}, total_steps: 30, can_finish: true, stage: 2 };
  await answer({ runs: [told] });
  const [run] = live.store.runs;
  live.store.reachStage(run, 2); // its next frame
  assert.deepEqual([run.stage, run.canFinish, run.totalSteps], [2, true, 30]);
});
