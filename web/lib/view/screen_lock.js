/** Keeps the screen on while something runs, and some minutes after. */

const MINUTES_AFTER = 10;

/** Browsers allow it on HTTPS and on localhost; elsewhere the device's own time-out holds. */
export class ScreenLock {
  /** @param {Window} view of the page */
  constructor(view) {
    this.view = view;
    /** @type {WakeLockSentinel | null} */
    this._held = null;
    this._until = 0;
    this._timer = 0;
    // The browser releases it whenever the page is hidden.
    view.addEventListener("visibilitychange", () => void this._request());
  }

  /** Something runs. */
  extend() {
    this._until = Date.now() + MINUTES_AFTER * 60_000;
    if (!this._held) void this._request();
    if (!this._timer) this._wait();
  }

  _wait() {
    this._timer = setTimeout(() => {
      this._timer = 0;
      if (Date.now() < this._until) return this._wait();
      void this._held?.release();
      this._held = null;
    }, this._until - Date.now());
  }

  async _request() {
    const { document, navigator } = this.view;
    const { wakeLock } = navigator; // none over plain HTTP
    if (!wakeLock || document.hidden || Date.now() >= this._until) return;
    if (this._held && !this._held.released) return;
    try {
      this._held = await wakeLock.request("screen");
    } catch {
      this._held = null; // the battery is low, for one; the next step asks again
    }
  }
}
