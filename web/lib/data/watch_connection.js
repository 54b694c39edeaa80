/** The watch page's connection to the server, which it opens again whenever it ends. Imports nothing. */

/** As `preview/deliver/watchers.py` has them. */
const CODES = /** @type {Record<number, "refused" | "full">} */ ({ 4401: "refused", 4429: "full" });

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 10_000;
const REFUSED_RETRY_MS = 15_000; // it may be switched on later
const SILENCE_MS = 40_000; // the server says something every 15 s

/** @typedef {{ run: string | null, stage: number, step: number, total_steps: number }} Told */

/**
 * Dispatches `picture` (detail: a Blob), `progress` (detail: `Told`) and `state` (detail: "open", "lost",
 * "refused" or "full").
 */
export class WatchConnection extends EventTarget {
  /**
   * @param {URL} address of the websocket
   * @param {string} key
   */
  constructor(address, key) {
    super();
    this.address = address;
    this.key = key;
    /** @type {WebSocket | null} */
    this._socket = null;
    this._timer = 0;
    this._retry = FIRST_RETRY_MS;
  }

  /** Connect now, if it is not connected. */
  open() {
    if (this._socket) return;
    clearTimeout(this._timer);
    const socket = (this._socket = new WebSocket(this.address));
    socket.onopen = () => socket.send(this.key); // not in the address, which may be logged
    socket.onmessage = ({ data }) => this._hear(data);
    socket.onclose = ({ code }) => this._end(code);
    this._expect(SILENCE_MS, () => this._end(0));
  }

  /** @param {string | Blob} data */
  _hear(data) {
    this._retry = FIRST_RETRY_MS;
    this._expect(SILENCE_MS, () => this._end(0));
    if (typeof data !== "string") return this._tell("picture", data);
    this._tell("state", "open");
    this._tell("progress", JSON.parse(data));
  }

  /** @param {number} code why it was closed; 0 where the server is silent */
  _end(code) {
    if (this._socket) this._socket.onclose = this._socket.onmessage = null;
    this._socket?.close();
    this._socket = null;
    const refusal = CODES[code];
    this._expect(refusal ? REFUSED_RETRY_MS : this._retry, () => this.open());
    this._retry = Math.min(LAST_RETRY_MS, this._retry * 2);
    this._tell("state", refusal ?? "lost");
  }

  /**
   * @param {number} ms
   * @param {() => void} act what else happens after that time
   */
  _expect(ms, act) {
    clearTimeout(this._timer);
    this._timer = setTimeout(act, ms);
  }

  /**
   * @param {string} name
   * @param {unknown} detail
   */
  _tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
