/** This page's prompts whose samplers have not begun: those that wait, and one that has just started. */

import { clientId, getJson, listen, listenToEnds, postJson, toast } from "../host/comfy.js";
import { t } from "../host/strings.js";

/** @typedef {import("./prompts.js").Origin} Origin */
/**
 * @typedef {object} Waiting
 * @property {string} promptId
 * @property {boolean} running whether it is its turn
 */

/** Dispatches `change`. */
export class Queue extends EventTarget {
  /**
   * @param {import("./store.js").FrameStore} store
   * @param {import("./prompts.js").Prompts} prompts
   */
  constructor(store, prompts) {
    super();
    this.store = store;
    this.prompts = prompts;
    /** @type {Waiting[]} in the order of the queue */
    this.waiting = [];
    this._asking = false;
    /** @type {string | undefined} the prompt that began last */
    this._begun = undefined;
    prompts.needed = () => new Set([...this.waiting, ...store.runs.filter(({ live }) => live)].map(({ promptId }) => promptId));
    store.addEventListener("runs", () => {
      if (this.waiting.length) this._keep(({ promptId }) => !store.runs.some((run) => run.promptId === promptId));
    });
    listen("execution_start", (told) => {
      this._begun = told?.prompt_id; // often before the answer to the request that queued it
      const begun = this.waiting.find(({ promptId }) => promptId === told?.prompt_id);
      if (!begun) return;
      begun.running = true;
      this._tell();
    });
    listenToEnds((over) => this._keep(({ promptId }) => promptId !== over));
    // Prompts may be removed from the queue elsewhere. Nothing is known here of other clients' prompts.
    listen("status", (told) => {
      const begun = store.live && !this.waiting.some(({ running }) => running) ? 1 : 0;
      if (told?.exec_info?.queue_remaining < this.waiting.length + begun && this.waiting.length) void this.ask();
    });
    listen("reconnected", () => void this.ask());
  }

  /** @param {string} promptId that was just queued */
  add(promptId) {
    if (this.store.isOver(promptId) || this.waiting.some((one) => one.promptId === promptId)) return;
    this.waiting.push({ promptId, running: promptId === this._begun });
    this._tell();
  }

  /**
   * Interrupt a prompt, or take it out of the queue where it waits.
   *
   * @param {string} promptId
   */
  async skip(promptId) {
    const waits = this.waiting.some((one) => one.promptId === promptId && !one.running);
    const [route, what] = waits ? ["/queue", { delete: [promptId] }] : ["/interrupt", { prompt_id: promptId }];
    const answer = await postJson(route, what).catch(() => null);
    if (!answer?.ok) return toast("error", t("liveSettings.notPaused"));
    if (waits) this._keep((one) => one.promptId !== promptId);
  }

  /** Compare with the server's own queue. */
  async ask() {
    if (this._asking) return;
    this._asking = true;
    const asked = new Set(this.waiting);
    try {
      const { queue_running: running, queue_pending: pending } = await getJson("/queue");
      const own = [...running, ...inOrder(pending)].filter(([, , , extra]) => extra?.client_id === clientId());
      const ids = own.map(([, promptId]) => promptId);
      const begun = new Set(running.map((/** @type {any[]} */ [, promptId]) => promptId));
      const seen = new Set(this.store.runs.map((run) => run.promptId));
      const queued = ids.filter((promptId) => !seen.has(promptId)).map((promptId) => ({ promptId, running: begun.has(promptId) }));
      const newer = this.waiting.filter((one) => !asked.has(one) && !ids.includes(one.promptId));
      this.waiting = [...queued, ...newer];
      for (const item of own) this.prompts.learn(item);
      this._tell();
    } catch {
      // What is known stays until the server answers.
    } finally {
      this._asking = false;
    }
  }

  /** @param {(one: Waiting) => boolean} stays */
  _keep(stays) {
    const before = this.waiting.length;
    this.waiting = this.waiting.filter(stays);
    if (this.waiting.length < before) this._tell();
  }

  _tell() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}

/** @param {any[][]} items of the server's queue, a heap */
function inOrder(items) {
  return [...items].sort(([a], [b]) => a - b);
}
