/**
 * The entry: puts the parts together and registers them with ComfyUI's page.
 *
 * The folders of lib/ import in one direction: view (what people see) → media (pictures drawn, played
 * and saved) → data (what is known) → host (ComfyUI's page).
 */

import { api, app, sidebarButton, toast } from "./lib/host/comfy.js";
import { isDemo, loadDemo } from "./lib/host/demo.js";
import { prepareFields } from "./lib/host/node_fields.js";
import { addStyleSheet, markPage } from "./lib/host/page.js";
import { joinQueueing } from "./lib/host/queueing.js";
import { loadStrings, t } from "./lib/host/strings.js";
import { tellOfMissingFrames } from "./lib/data/frames_node.js";
import { LiveSettings } from "./lib/data/live_settings.js";
import { guardPictures } from "./lib/data/node_guard.js";
import { Prompts, takeOutValues } from "./lib/data/prompts.js";
import { Queue } from "./lib/data/queue.js";
import { Rates } from "./lib/data/rates.js";
import { Results } from "./lib/data/results.js";
import { RunArchive } from "./lib/data/run_archive.js";
import { Settings } from "./lib/data/settings.js";
import { Sharing } from "./lib/data/sharing.js";
import { ServerStatus } from "./lib/data/status.js";
import { FrameStore } from "./lib/data/store.js";
import { Watching } from "./lib/data/watching.js";
import { receive } from "./lib/data/wire.js";
import { pictureLook, videoLook } from "./lib/media/result_look.js";
import { smallCopy } from "./lib/media/small_copy.js";
import { addThumbnail, drawThumbnails, isPreviewNode } from "./lib/view/node_thumbnail.js";
import { EyeHint } from "./lib/view/hint.js";
import { openPanel } from "./lib/view/panel.js";
import { popOutOf } from "./lib/view/popout.js";
import { presetInDialog } from "./lib/view/preset_select.js";
import { sharingSetting } from "./lib/view/sharing_setting.js";

const TAB = "sidestream";
const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2) ?? "");

const settings = new Settings();
const store = new FrameStore(() => settings.limits());
const prompts = new Prompts();
const liveSettings = new LiveSettings(settings, store);
const watching = new Watching(store);
const sharing = new Sharing();

/**
 * The parts, for other packs and for tests: `import("/extensions/<pack>/sidestream.js")`.
 *
 * @type {import("./lib/view/panel.js").Shared}
 */
export const shared = {
  store,
  watching,
  settings,
  liveSettings,
  status: new ServerStatus(store),
  rates: new Rates(store),
  prompts,
  results: new Results(store, prompts, { pictureLook, videoLook }),
  queue: new Queue(store, prompts),
  archive: new RunArchive(store, smallCopy),
  popOut: () => void popOut(),
};
const popOut = popOutOf((container) => {
  hint.dismiss();
  return openPanel(container, shared, { canPopOut: false });
});

store.describe = (/** @type {import("./lib/data/store.js").Run} */ run) => prompts.about(run);
prompts.learnt = (/** @type {string} */ promptId) => store.describeRuns(promptId);
receive(store);
guardPictures(store, prompts);
drawThumbnails(store, prompts);
tellOfMissingFrames();
function showStreaming() {
  markPage("sidestream-streams", store.runs.some((run) => run.live && !liveSettings.silences(run)));
}
store.addEventListener("runs", showStreaming);
store.addEventListener("finished", (/** @type {any} */ { detail: run }) =>
  toast("info", t("finish.done", { title: run.title, step: run.finishedAt, total: run.totalSteps })),
);
liveSettings.addEventListener("change", showStreaming);
joinQueueing(
  api,
  (body) => {
    const nodes = takeOutValues(body.prompt, Object.keys(settings.fields));
    const beside = Object.keys(nodes).length ? { nodes } : {};
    const own = { accepts: ["sound"], ...sharing.mark };
    const sidestream = { ...own, ...settings.values(), ...body.extra_data?.sidestream, ...beside };
    body.extra_data = { ...body.extra_data, sidestream };
  },
  (promptId, prompt, workflow, graph) => {
    prompts.remember(promptId, prompt, workflow, graph);
    shared.queue.add(promptId);
    store.describeRuns(promptId);
  },
);

addStyleSheet(document, new URL("sidestream.css", import.meta.url).href);

await Promise.all([settings.load(), sharing.load(), loadStrings()]);
liveSettings.listen();
const hint = new EyeHint(document, store, () => sidebarButton(TAB));

/**
 * Fill `container` with a panel, but not at once: a newer page watches which settings are read while
 * it renders a tab, and would render the tab anew with every change of one.
 *
 * @param {HTMLElement} container
 */
function openSoon(container) {
  /** @type {(() => void) | undefined} */
  let close;
  let isWanted = true;
  queueMicrotask(() => {
    if (!isWanted) return;
    hint.dismiss();
    close = openPanel(container, shared);
  });
  return () => {
    isWanted = false;
    close?.();
  };
}

/** A tab of ComfyUI's that holds a panel. */
function tab() {
  /** @type {(() => void) | undefined} */
  let close;
  return {
    id: TAB,
    icon: "pi pi-eye",
    // Read whenever the page draws them, so in the language that it has then.
    get title() {
      return t("panel.title");
    },
    get tooltip() {
      return t("panel.tooltip");
    },
    type: /** @type {const} */ ("custom"),
    render: (/** @type {HTMLElement} */ container) => {
      close?.();
      close = openSoon(container);
    },
    destroy: () => {
      close?.();
      close = undefined;
    },
  };
}

let demoWanted = isDemo();

/** @param {number} wait for the page to put its own first workflow on the canvas */
function showDemoAfter(wait) {
  if (!demoWanted) return;
  setTimeout(() => {
    if (demoWanted) void loadDemo(PACK);
    demoWanted = false;
  }, wait);
}

app.registerExtension({
  name: "sidestream",
  settings: [...settings.entries(presetInDialog(document, settings)), sharingSetting(sharing)],
  bottomPanelTabs: [tab()],
  commands: [
    {
      id: "SideStream.TogglePreviews",
      label: "Pause or resume live previews",
      icon: "pi pi-pause",
      function: () => {
        liveSettings.togglePause();
        toast("info", t(liveSettings.paused ? "liveSettings.nowPaused" : "liveSettings.nowOn"));
      },
    },
    {
      id: "SideStream.FinishHere",
      label: "Finish the running sampler at this step",
      icon: "pi pi-check-circle",
      function: () => {
        const run = liveSettings.finishable(watching.run);
        if (run) void liveSettings.finish(run);
        else toast("info", t("finish.none"));
      },
    },
    {
      id: "SideStream.PopOut",
      label: "Open Live Preview in a separate window",
      icon: "pi pi-external-link",
      function: popOut,
    },
  ],
  keybindings: [
    // The page's own command for the tab: so the eye's tooltip says the key, also one of the user's choice.
    { combo: { key: "L", shift: true }, commandId: `Workspace.ToggleSidebarTab.${TAB}` },
    { combo: { key: "K", shift: true }, commandId: "SideStream.TogglePreviews" },
  ],
  addCustomNodeDefs: (definitions) => prompts.define(definitions),
  nodeCreated: (node) => {
    if (!isPreviewNode(node)) return;
    prepareFields(node, settings.fields);
    addThumbnail(node);
  },
  setup: () => {
    app.extensionManager.registerSidebarTab(tab());
    showDemoAfter(3000); // some pages begin with no workflow at all
  },
  afterConfigureGraph: () => showDemoAfter(500),
});
