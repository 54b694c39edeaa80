/** What the server says about itself, and what follows from it for the user. */

import { getJson } from "../host/comfy.js";
import { t } from "../host/strings.js";

/** @typedef {import("./store.js").FrameStore} FrameStore */
/** @typedef {import("./store.js").Run} Run */
/** @typedef {import("./live_settings.js").LiveSettings} LiveSettings */

const INTERVAL_MS = 2000;

/** Notices about a choice of the user's, or about something good enough. */
const MILD = new Set(["paused", "off", "missing", "slow", "noSound"]);

/** Asks `GET /sidestream/status` while a panel is open and something runs. Dispatches `change`. */
export class ServerStatus extends EventTarget {
  /** @param {FrameStore} store */
  constructor(store) {
    super();
    this.store = store;
    /** @type {any} the last answer; null before the first and when the server is silent */
    this.latest = null;
    this.reached = true;
    this._watchers = 0;
    this._timer = 0;
  }

  /** The largest share of a device's time that previews use, from 0 to 1; null if unknown. */
  get share() {
    const shares = (this.latest?.devices ?? []).map((/** @type {any} */ device) => device.share ?? 0);
    return shares.length ? Math.max(...shares) : null;
  }

  /**
   * Ask regularly until `signal` ends it.
   *
   * @param {AbortSignal} signal
   */
  watch(signal) {
    this._watchers += 1;
    if (this._watchers === 1) {
      void this._ask();
      this._timer = setInterval(() => {
        if (this.store.live || !this.reached || !this.latest) void this._ask();
      }, INTERVAL_MS);
    }
    signal.addEventListener("abort", () => {
      this._watchers -= 1;
      if (this._watchers === 0) clearInterval(this._timer);
    });
  }

  async _ask() {
    try {
      this.latest = await getJson("/sidestream/status");
      this.reached = true;
    } catch {
      this.reached = false;
    }
    this.dispatchEvent(new CustomEvent("change"));
  }
}

/**
 * @typedef {object} Notice
 * @property {string} key equal for notices of which one was dismissed with the other
 * @property {string} text
 * @property {boolean} mild
 * @property {{ url: string, text: string }} [link] what helps
 */

/**
 * What is degraded, and what to do about it: one sentence, or nothing.
 *
 * @param {ServerStatus} status
 * @param {LiveSettings} liveSettings
 * @param {Run | null} run the watched one
 * @returns {Notice | null}
 */
export function notice(status, liveSettings, run) {
  /** @param {string} key @param {Record<string, string>} [values] */
  const say = (key, values) => ({ key, text: t(`notices.${key}`, values), mild: MILD.has(key.split(".")[0]) });
  const provider = status.latest?.provider;
  if (!status.reached) return say("unreachable");
  if (provider && !provider.installed) return say("notInstalled", { problem: provider.problem ?? "?" });
  if (run?.foreign && run.live) return say("foreign");
  if (provider && provider.in_charge !== "SideStream") {
    return say("inFront", { who: provider.in_charge });
  }
  if (liveSettings.paused) return say("paused");
  const silence = status.store.silence;
  if (silence?.why === "method") return say("chosenNone");
  if (silence?.why === "latents" && silence.missing) return withLink("needsDecoder", silence.missing);
  if (silence?.why === "latents") return say("noDecoder");
  if (silence?.why === "suppressed") {
    const { title = "", option = "" } = silence.where ?? {};
    return title
      ? say("suppressedAt", { who: silence.who, node: title, option })
      : say("suppressed", { who: silence.who });
  }
  if (run?.live && run.slow) {
    const { decoder, decode_ms: took, seconds_between: seconds } = run.slow;
    return say("slow", { decoder, ms: String(Math.round(took)), seconds: String(Math.round(seconds)) });
  }
  if (run?.noSound) return say(`noSound.${run.noSound}`);
  const method = run?.settings?.method ?? liveSettings.settings.get("method");
  if (run?.live && method === "off") return say("off");
  const decoder = run?.frames.at(-1)?.decoder;
  if (decoder !== "latent2rgb" || method === "latent2rgb") return null;
  if (run?.missing) return withLink("missing", run.missing);
  return method === "taesd" ? say("noDecoderFile") : null;
}

/**
 * That a decoder file is missing, and where to download it.
 *
 * @param {string} key
 * @param {import("./store.js").MissingFile} missing
 * @returns {Notice}
 */
function withLink(key, missing) {
  const { file, url, folder, models } = missing;
  const size = missing.megabytes ? ` (${missing.megabytes} MB)` : "";
  const link = { url, text: t("notices.download", { size }).trim() };
  return { key: `${key} ${file}`, text: t(`notices.${key}`, { file, folder, models }), mild: MILD.has(key), link };
}
