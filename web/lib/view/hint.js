/**
 * Shown once, when previews stream and no panel has ever been opened: a note beside the eye that opens it.
 * It stays until it is dismissed or a panel is opened, and never returns.
 */

import { elementsOf, keepFromPage, setText } from "./dom.js";
import { onLanguage, t, writing } from "../host/strings.js";

/** The key under which the browser remembers that it is known. */
const KNOWN = "SideStream.hint";
const GAP = 12; // for the arrow
const MARGIN = 8;

export class EyeHint {
  /**
   * @param {Document} document
   * @param {import("../data/store.js").FrameStore} store
   * @param {() => { eye: Element | null, shortcut: string }} find the eye, and the key that does the same
   */
  constructor(document, store, find) {
    const element = elementsOf(document);
    this.document = document;
    this.find = find;
    this.text = element("span");
    this.button = element("button", { type: "button", onclick: () => this.dismiss(), onkeydown: keepFromPage });
    this.element = element("div", { class: "ss-eye-hint", role: "status" }, this.text, this.button);
    this._ending = new AbortController();
    const { signal } = this._ending;
    if (localStorage.getItem(KNOWN) !== null) return;
    store.addEventListener("frame", (/** @type {any} */ { detail }) => !detail.run.foreign && this._show(), { signal });
    // Observes the page's size instead of listening on the window that all packs share.
    const resized = new ResizeObserver(() => this.element.isConnected && this._place());
    resized.observe(document.documentElement);
    signal.addEventListener("abort", () => resized.disconnect());
    onLanguage(() => this.element.isConnected && this._place(), signal);
  }

  /** The user knows now where previews are. */
  dismiss() {
    this._ending.abort();
    this.element.remove();
    localStorage.setItem(KNOWN, "known");
  }

  _show() {
    if (!this.element.isConnected) this.document.body.append(this.element);
    this._place();
  }

  /** Beside the eye, on the side where there is room; nowhere while the page shows no eye. */
  _place() {
    const { eye, shortcut } = this.find();
    this.element.hidden = !eye?.checkVisibility();
    if (!eye || this.element.hidden) return;
    Object.assign(this.element, writing());
    setText(this.text, t("hint.text", { shortcut: shortcut && ` (${shortcut})` }));
    setText(this.button, t("hint.dismiss"));
    const { left, right, top, bottom } = eye.getBoundingClientRect();
    const { innerWidth, innerHeight } = /** @type {Window} */ (this.document.defaultView);
    const isLeft = left + right < innerWidth;
    const { style, offsetHeight: height } = this.element;
    const middle = (top + bottom) / 2;
    const above = Math.max(MARGIN, Math.min(middle - height / 2, innerHeight - height - MARGIN));
    this.element.classList.toggle("ss-at-right", !isLeft);
    style.left = isLeft ? `${right + GAP}px` : "auto";
    style.right = isLeft ? "auto" : `${innerWidth - left + GAP}px`;
    style.top = `${above}px`;
    style.setProperty("--ss-arrow", `${middle - above}px`);
  }
}
