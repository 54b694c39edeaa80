/** What the user does to running samplers: change settings, pause previews, interrupt. */

import { api, app, clientId, toast } from "./comfy.js";
import { t } from "./strings.js";

/** @typedef {import("./store.js").FrameStore} FrameStore */
/** @typedef {import("./store.js").Run} Run */
/** @typedef {import("./settings.js").Settings} Settings */

const SETTLE_MS = 120;

/** Tells of changes by the event `change`. */
export class Steering extends EventTarget {
  /**
   * @param {Settings} settings
   * @param {FrameStore} store
   */
  constructor(settings, store) {
    super();
    this.settings = settings;
    this.store = store;
    this.paused = false;
    /** @type {Record<string, any>} not yet told to the server */
    this._changes = {};
    this._timer = 0;
    store.addEventListener("start", () => {
      // A node on the MODEL wins over what came with the prompt, but not over a live change.
      if (this.paused) this._tellServer({ method: "off" });
    });
  }

  /** What goes along with a prompt. */
  forPrompt() {
    return this.paused ? { ...this.settings.values(), method: "off" } : this.settings.values();
  }

  /**
   * Change a setting for now and for later.
   *
   * @param {string} name
   * @param {any} value
   */
  change(name, value) {
    const stored = Promise.resolve(this.settings.set(name, value)).catch(() => {
      toast("error", t("steering.notStored"));
    });
    if (!(this.paused && name === "method")) this._tellServer({ [name]: value });
    for (const run of this.store.runs) if (run.live && run.settings) run.settings[name] = value;
    void stored.then(() => this.dispatchEvent(new CustomEvent("change")));
  }

  /**
   * Stop making previews, or go on.
   *
   * @param {Run | null} [watched] whose own method comes back when previews go on
   */
  togglePause(watched = null) {
    this.paused = !this.paused;
    const own = watched?.live ? watched.settings?.method : undefined;
    this._tellServer({ method: this.paused ? "off" : (own ?? this.settings.get("method")) });
    this.dispatchEvent(new CustomEvent("change"));
  }

  /** Stop the run. */
  interrupt() {
    void app.extensionManager.command.execute("Comfy.Interrupt");
  }

  /** @param {Record<string, any>} changes */
  _tellServer(changes) {
    Object.assign(this._changes, changes);
    clearTimeout(this._timer);
    this._timer = setTimeout(() => void this._send(), SETTLE_MS);
  }

  async _send() {
    const changes = this._changes;
    this._changes = {};
    try {
      const response = await api.fetchApi("/sidestream/live", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ client_id: clientId(), ...changes }),
      });
      if (!response.ok) toast("error", (await response.json()).error);
    } catch {
      toast("error", t("steering.unreachable"));
    }
  }
}
