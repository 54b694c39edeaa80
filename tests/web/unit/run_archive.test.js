import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { packed, unpacked } from "../../../web/lib/data/packed.js";
import { RunArchive } from "../../../web/lib/data/run_archive.js";
import { FrameStore } from "../../../web/lib/data/store.js";
import { receive } from "../../../web/lib/data/wire.js";
import { endRun, previews } from "./comfy.js";

/** A database like the browser's, which hands out copies. */
function database(records = new Map()) {
  return {
    records,
    all: async () => [...records.values()].map((record) => ({ ...record })),
    put: async (record) => records.set(record.id, record),
    delete: async (id) => records.delete(id),
    clear: async () => records.clear(),
  };
}

const small = async () => ({ blob: new Blob(["small"]), width: 4, height: 4 });

function opened(open) {
  const store = new FrameStore(() => ({ frames: 600, bytes: 2 ** 20 }));
  receive(store);
  return { store, archive: new RunArchive(store, small, open) };
}

/** Let everything be written that is to be written. */
async function settled(archive) {
  mock.timers.tick(1000);
  await archive._work;
}

test.beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
test.afterEach(() => mock.timers.reset());

test("runs that are over are there after a reload, as small copies, with star and workflow", async () => {
  const kept = database();
  const { store, archive } = opened(async () => kept);
  previews(5, { run: "a", prompt: "pa", size: 500 });
  previews(2, { run: "b", prompt: "pb" });
  endRun("a");
  const [run] = store.runs;
  run.graph = packed({ nodes: [7] });
  store.addResult(run, { seq: 1, stage: 1, step: 5, totalSteps: 20, outputNode: "9", animation: null, blob: new Blob(["large"]) });
  store.star(run, true);
  await settled(archive);
  assert.deepEqual([...kept.records.keys()], ["a"]); // the other one goes on

  const after = opened(async () => kept);
  await after.archive._work;
  const [again] = after.store.runs;
  assert.deepEqual([again.id, again.starred, again.live, again.step], ["a", true, false, 5]);
  assert.deepEqual([again.frames.length, again.results[0].outputNode, await again.results[0].blob.text()], [1, "9", "small"]);
  assert.deepEqual(await unpacked(await again.graph), { nodes: [7] });
  assert.equal(after.store.bytes, 10);
  assert.equal(again.startedAt.getTime(), run.startedAt.getTime());
});

test("what is forgotten is forgotten there, too, and what is put back is back", async () => {
  const kept = database();
  const { store, archive } = opened(async () => kept);
  for (const id of ["a", "b"]) {
    previews(1, { run: id, prompt: id });
    endRun(id);
  }
  await settled(archive);
  const [run] = store.runs;
  store.remove(run);
  await settled(archive);
  assert.deepEqual([...kept.records.keys()], ["b"]);
  store.restore(run);
  await settled(archive);
  assert.deepEqual([...kept.records.keys()].sort(), ["a", "b"]);
  kept.records.set("of another tab", { id: "of another tab" });
  await archive.forgetAll();
  await settled(archive);
  assert.deepEqual([kept.records.size, store.runs.length], [0, 0]);
});

test("a run is written once, and again where something has changed", async () => {
  const kept = database();
  let count = 0;
  kept.put = async () => (count += 1);
  const { store, archive } = opened(async () => kept);
  previews(2);
  endRun();
  await settled(archive);
  store.dispatchEvent(new CustomEvent("runs"));
  await settled(archive);
  assert.equal(count, 1);
  store.star(store.runs[0], true);
  await settled(archive);
  assert.equal(count, 2);
});

test("all is forgotten also while a run is being written, and later runs are kept", async () => {
  const kept = database();
  const { store, archive } = opened(async () => kept);
  for (const id of ["a", "b"]) {
    previews(1, { run: id, prompt: id });
    endRun(id);
  }
  const forgotten = new Promise((resolve) => {
    archive.copyOf = async () => {
      resolve(archive.forgetAll());
      archive.copyOf = small;
      return small();
    };
  });
  await settled(archive);
  await forgotten;
  assert.deepEqual([kept.records.size, store.runs.length], [0, 0]);
  previews(1, { run: "c", prompt: "c" });
  endRun("c");
  await settled(archive);
  assert.deepEqual([...kept.records.keys()], ["c"]);
});

const refusals = {
  "no database": async () => { throw new Error("private"); },
  "nothing read": async () => ({ ...database(), all: async () => { throw new Error("broken"); } }),
  "nothing written": async () => ({ ...database(), put: async () => { throw new Error("full"); } }),
};
for (const [what, open] of Object.entries(refusals)) {
  test(`where the browser allows ${what} the runs are there until a reload`, async () => {
    const { store, archive } = opened(open);
    previews(2);
    endRun();
    await settled(archive);
    assert.ok(archive.refused);
    assert.equal(store.runs[0].frames.at(-1).small.width, 4); // for when memory is short
    await archive.forgetAll();
    assert.equal(store.runs.length, 0);
  });
}
