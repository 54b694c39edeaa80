/** What the user does to running samplers: change settings, pause previews, interrupt. */

import { app, clientId, getJson, listen, postJson, toast } from "../host/comfy.js";
import { t } from "../host/strings.js";

/** @typedef {import("./store.js").FrameStore} FrameStore */
/** @typedef {import("./store.js").Run} Run */
/** @typedef {import("./settings.js").Settings} Settings */
/**
 * @typedef {object} State What the server remembers of this client, and its runs.
 * @property {boolean} paused
 * @property {number} prompts how many run or wait
 * @property {Record<string, any>} live the changes that hold for them
 * @property {any[]} runs
 */

const SETTLE_MS = 120;

/**
 * A change holds for what runs and what waits in the queue; if nothing does, it is stored as the
 * user's setting. Dispatches `change`.
 */
export class LiveSettings extends EventTarget {
  /**
   * @param {Settings} settings
   * @param {FrameStore} store
   */
  constructor(settings, store) {
    super();
    this.settings = settings;
    this.store = store;
    this.paused = false;
    /** @type {Record<string, any>} what was changed for the prompts that run or wait */
    this.changes = {};
    /** @type {Record<string, any>} those of them that are stored as settings, too */
    this._stored = {};
    /** @type {Record<string, any>} not yet told to the server; null takes a change back */
    this._unsent = {};
    this._timer = 0;
    this._isCut = false;
    /** @type {Promise<unknown>} the request before */
    this._before = Promise.resolve();
    /** How many requests are not answered yet. */
    this._unanswered = 0;
  }

  /** Follow the server's state, beginning with what it kept from before the page was loaded. */
  listen() {
    void this._ask(true);
    listen("reconnecting", () => {
      this._isCut = true;
      this._tell();
    });
    listen("reconnected", () => {
      this._isCut = false;
      if (this.paused) void this._pause();
      void this._ask(true); // a run may have begun meanwhile
    });
    // A page of the same client, such as a tab's duplicate, may have paused or resumed.
    listen("sidestream.run", ({ paused = this.paused }) => {
      if (paused !== this.paused) void this._ask();
    });
    // A prompt is told to be over a moment before the server itself counts it out; this follows then.
    listen("status", () => {
      if (Object.keys(this.changes).length) void this._ask();
    });
  }

  /**
   * @param {Run | null | undefined} run
   * @returns {boolean} whether no pictures come of it: previews are paused or off, or the server is gone
   */
  silences(run) {
    return this.paused || this._isCut || run?.settings?.method === "off";
  }

  /** The names of the settings that differ, for what runs, from what they were. */
  get changed() {
    return Object.keys(this.changes).filter((name) => this.changes[name] !== this._stored[name]);
  }

  /**
   * @param {string} name
   * @param {any} value
   */
  change(name, value) {
    this.changes = { ...this.changes, [name]: value };
    for (const run of this.store.runs) if (run.live && run.settings) run.settings[name] = value;
    this._tellServer({ [name]: value });
  }

  /** @param {string[]} names go back to what they were */
  takeBack(names = this.changed) {
    const left = Object.entries(this.changes).filter(([name]) => !names.includes(name));
    this.changes = Object.fromEntries(left);
    this._tellServer(Object.fromEntries(names.map((name) => [name, null])));
  }

  /** Store the changes as the user's settings. */
  keepAlways() {
    for (const name of this.changed) this._store(name, this.changes[name]);
  }

  /** Pause or resume previews. */
  togglePause() {
    this.paused = !this.paused;
    void this._pause();
    this._tell();
  }

  /**
   * @param {Run | null | undefined} run the one that is watched
   * @returns {Run | null} that or, where it is over, the newest that can be finished early
   */
  finishable(run) {
    const can = (/** @type {Run} */ one) => one.live && one.canFinish;
    return run?.live ? (can(run) ? run : null) : (this.store.runs.findLast(can) ?? null);
  }

  /**
   * End the run's sampling at its next step, and go on with what is seen.
   *
   * @param {Run} run
   */
  async finish(run) {
    const state = await this._post("/sidestream/finish", { run: run.id }, "notFinished");
    if (!state) return;
    run.canFinish = false; // it is on its way
    this._tell();
  }

  /** Interrupt the run. */
  interrupt() {
    void app.extensionManager.command.execute("Comfy.Interrupt");
  }

  /**
   * @param {string} name
   * @param {any} value
   */
  _store(name, value) {
    this._stored[name] = value;
    void this.settings.set(name, value).then(() => this._tell());
  }

  /** @param {Record<string, any>} changes */
  _tellServer(changes) {
    Object.assign(this._unsent, changes);
    clearTimeout(this._timer);
    this._timer = setTimeout(() => void this._send(), SETTLE_MS);
    this._tell();
  }

  async _send() {
    const changes = this._unsent;
    this._unsent = {};
    const state = await this._post("/sidestream/live", changes, "unreachable");
    // Nothing runs or waits, or the server is silent: store it for later prompts.
    if (!state?.prompts) {
      for (const [name, value] of Object.entries(changes)) {
        delete this.changes[name];
        if (value !== null) this._store(name, value);
      }
    }
    if (state) this._follow(state);
  }

  async _pause() {
    const { paused } = this;
    const state = await this._post("/sidestream/pause", { paused }, "notPaused");
    if (state) this._follow(state);
    else if (this.paused === paused) {
      this.paused = !paused;
      this._tell();
    }
  }

  /**
   * @param {string} route
   * @param {Record<string, any>} what
   * @param {string} failed what to say where the server does not answer
   * @returns {Promise<State | null>} null if it was refused, or the server did not answer
   */
  async _post(route, what, failed) {
    try {
      const response = await this._inTurn(() => postJson(route, { client_id: clientId(), ...what }));
      const answer = await response.json();
      if (response.ok) return answer;
      toast("error", answer.error);
    } catch {
      toast("error", t(`liveSettings.${failed}`));
    }
    return null;
  }

  /** @param {boolean} [isNew] whether runs that this page does not know yet are welcome */
  async _ask(isNew = false) {
    if (!clientId()) return;
    try {
      const route = `/sidestream/client?client_id=${encodeURIComponent(clientId())}`;
      this._follow(await this._inTurn(() => getJson(route)), isNew);
    } catch {
      // Keep the last state until the server answers again.
    }
  }

  /**
   * One request at a time: otherwise an older one may be answered, or even heard, last.
   *
   * @template T
   * @param {() => Promise<T>} request
   * @returns {Promise<T>}
   */
  _inTurn(request) {
    this._unanswered += 1;
    const answer = this._before.then(request).finally(() => (this._unanswered -= 1));
    this._before = answer.catch(() => {});
    return answer;
  }

  /**
   * @param {State} state
   * @param {boolean} [isNew]
   */
  _follow({ paused, live, runs }, isNew = false) {
    const isLatest = this._unanswered === 0;
    if (isLatest) this.paused = paused;
    if (isLatest && !Object.keys(this._unsent).length) this.changes = live;
    if (!Object.keys(this.changes).length) this._stored = {};
    for (const told of runs) {
      const run = isNew ? this.store.runOf(told) : this.store.runs.find((known) => known.id === told.run);
      if (!run) continue;
      this.store.reachStage(run, told.stage ?? run.stage);
      const { settings, can_finish: canFinish, slow, missing_decoder: missing } = told;
      // It may be from before a reload. A server that was not restarted after an update does not say.
      run.begunAt = Math.min(run.begunAt, this.store.clock() - (told.running_ms ?? 0));
      Object.assign(run, { settings, totalSteps: run.totalSteps || told.total_steps, canFinish, slow, missing });
    }
    this._tell();
  }

  _tell() {
    this.dispatchEvent(new CustomEvent("change"));
  }
}
