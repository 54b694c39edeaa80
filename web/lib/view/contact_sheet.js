/** All runs since the page was opened, and the prompts that wait, as small pictures in the order of the queue. */

import { AskButton } from "./ask_button.js";
import { elementsOf, iconButton, keepFromPage, setText, whenEnded } from "./dom.js";
import { RunTile } from "./run_tile.js";
import { OneAFrame } from "../media/one_a_frame.js";
import { t, writing } from "../host/strings.js";

/** @typedef {import("../data/store.js").Run} Run */

/** Of the pictures, in pixels. */
const SIDE = 320;
/** Pictures this near to what is in view are drawn, too, in CSS pixels. */
const MARGIN = 120;
const UNDO_MS = 10_000;

export class ContactSheet {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   * @param {AbortSignal} signal
   */
  constructor(document, shared, signal) {
    const element = elementsOf(document);
    this.document = document;
    this.shared = shared;
    const window = /** @type {Window & typeof globalThis} */ (document.defaultView);
    this.pictures = new OneAFrame(window, SIDE);
    /** @type {Map<string, RunTile>} by run; by prompt before there is one */
    this.tiles = new Map();
    /** @type {RunTile | null} the one that the Tab key reaches */
    this.reachable = null;
    this.isOpen = false;
    this.starredOnly = false;
    /** @type {Run[]} which can be restored */
    this._removed = [];
    this._timer = 0;

    this.count = element("span");
    this.filter = iconButton(element, "star", t("sheet.starredOnly"), () => {
      this.starredOnly = !this.starredOnly;
      this.update();
    });
    const forget = new AskButton(element, "trash", { label: t("sheet.forgetAll"), sure: t("sheet.forgetSure") }, () => this._forgetAll());
    this.forget = forget.element;
    this.refused = element("p", { class: "ss-hint", hidden: true }, t("sheet.notKept"));
    this.empty = element("p", { class: "ss-hint" }, t("viewer.empty"));
    this.list = element("div", {
      class: "ss-shots",
      role: "group",
      "aria-label": t("sheet.label"),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this._onKey(event),
      onfocusin: (/** @type {FocusEvent} */ event) => this._reach(this._tileOf(event.target)),
    });
    const undo = element("button", { type: "button", class: "ss-chip", onclick: () => this._undo() }, t("sheet.undo"));
    this.undoBar = element("div", { class: "ss-undo-bar", role: "status", hidden: true }, element("span", {}, t("sheet.deleted")), undo);
    this.scroller = element("div", { class: "ss-shots-box" }, this.refused, this.empty, this.list);
    this.element = element(
      "div",
      { class: "ss-sheet", hidden: true },
      element("div", { class: "ss-toolbar" }, this.count, element("span", { class: "ss-space" }), this.filter, this.forget),
      this.scroller,
      this.undoBar,
    );
    this.observer = new window.IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) this._tileOf(target)?.setInView(isIntersecting);
      },
      { root: this.scroller, rootMargin: `${MARGIN}px` },
    );
    whenEnded(signal, () => {
      clearTimeout(this._timer);
      forget.ask(false);
      this._close();
      this.observer.disconnect();
    });
  }

  /** Show what there is. */
  update() {
    const { watching, store, queue, archive } = this.shared;
    const isOpening = watching.sheet && !this.isOpen;
    this.isOpen = watching.sheet;
    this.element.hidden = !this.isOpen;
    if (!this.isOpen) return this._close();
    if (isOpening) void queue.ask();
    const runs = store.runs.filter((run) => run.live || run.frames.length > 0);
    const shown = this.starredOnly ? runs.filter(({ starred }) => starred) : runs;
    const waiting = this.starredOnly ? [] : queue.waiting;
    this._keep(new Set([...shown.map(({ id }) => id), ...waiting.map(({ promptId }) => promptId)]), shown);
    let before = /** @type {Element | null} */ (null);
    for (const run of shown) before = this._place(run.id, before, (tile) => tile.update(run, null));
    for (const prompt of waiting) before = this._place(prompt.promptId, before, (tile) => tile.update(null, prompt));
    setText(this.count, t("sheet.count", { count: shown.length + waiting.length }));
    this.filter.setAttribute("aria-pressed", String(this.starredOnly));
    this.forget.disabled = runs.length === 0;
    this.empty.hidden = this.tiles.size > 0 || this.starredOnly;
    this.refused.hidden = !archive.refused;
    this._reach(this.reachable?.element.isConnected ? this.reachable : this._tileOf(this.list.lastElementChild));
    if (isOpening) this._scrollTo(watching.run);
  }

  /**
   * Remove the tiles of what is gone. A prompt's tile goes on as that of its first run.
   *
   * @param {Set<string>} keys of what there is
   * @param {Run[]} runs
   */
  _keep(keys, runs) {
    for (const [key, tile] of this.tiles) {
      if (keys.has(key)) continue;
      this.tiles.delete(key);
      const begun = runs.find(({ id, promptId }) => promptId === key && !this.tiles.has(id));
      if (begun) this.tiles.set(begun.id, tile);
      else this._remove(tile);
    }
  }

  /**
   * @param {string} key
   * @param {Element | null} before the tile before it
   * @param {(tile: RunTile) => void} fill
   * @returns {Element}
   */
  _place(key, before, fill) {
    const known = this.tiles.get(key);
    const tile = known ?? new RunTile(this.document, this.shared, this.pictures, (run) => this._delete(run));
    fill(tile);
    const next = before ? before.nextElementSibling : this.list.firstElementChild;
    if (next !== tile.element) this.list.insertBefore(tile.element, next);
    if (!known) {
      tile.setReachable(false);
      this.tiles.set(key, tile);
      this.observer.observe(tile.element);
    }
    return tile.element;
  }

  /** @param {RunTile} tile */
  _remove(tile) {
    const hadFocus = tile.element.contains(this.document.activeElement);
    const neighbour = this._tileOf(tile.element.nextElementSibling ?? tile.element.previousElementSibling);
    this.observer.unobserve(tile.element);
    tile.close();
    if (this.reachable === tile) this._reach(neighbour);
    if (hadFocus && this.isOpen) neighbour?.picture.focus();
  }

  _close() {
    this.isOpen = false;
    for (const tile of this.tiles.values()) {
      this.observer.unobserve(tile.element);
      tile.close();
    }
    this.tiles.clear();
    this.reachable = null;
  }

  /** @param {RunTile | null} tile */
  _reach(tile) {
    if (!tile || tile === this.reachable) return;
    this.reachable?.setReachable(false);
    this.reachable = tile;
    tile.setReachable(true);
  }

  /** @param {EventTarget | null} target */
  _tileOf(target) {
    return [...this.tiles.values()].find(({ element }) => element.contains(/** @type {Node | null} */ (target))) ?? null;
  }

  /** @param {Run | null} run */
  _scrollTo(run) {
    const tile = run && this.tiles.get(run.id);
    if (tile) tile.element.scrollIntoView({ block: "nearest" });
  }

  /** @param {Run} run that is over */
  _delete(run) {
    this._removed.push(run);
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._settle(), UNDO_MS);
    this.undoBar.hidden = false;
    this.shared.store.remove(run);
  }

  _undo() {
    const runs = this._removed;
    this._settle();
    for (const run of runs) this.shared.store.restore(run);
    this.update();
    this.tiles.get(runs.at(-1)?.id ?? "")?.picture.focus();
  }

  /** What was deleted can no longer be restored. */
  _settle() {
    clearTimeout(this._timer);
    this._removed = [];
    this.undoBar.hidden = true;
  }

  _forgetAll() {
    const { archive, prompts, queue, store } = this.shared;
    this._settle();
    void archive.forgetAll();
    prompts.keep((id) => [...queue.waiting, ...store.runs].some(({ promptId }) => promptId === id));
  }

  /** @param {KeyboardEvent} event */
  _onKey(event) {
    const tiles = /** @type {RunTile[]} */ ([...this.list.children].map((child) => this._tileOf(child)));
    const at = tiles.findIndex(({ element }) => element.contains(/** @type {Node} */ (event.target)));
    const right = writing().dir === "rtl" ? -1 : 1;
    const [columns, last] = [this._columns, tiles.length - 1];
    const places = { ArrowLeft: at - right, ArrowRight: at + right, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: last };
    const next = /** @type {Record<string, number>} */ (places)[event.key];
    if (next !== undefined) {
      keepFromPage(event);
      event.preventDefault();
      tiles[Math.max(0, Math.min(next, last))]?.picture.focus();
    } else if (event.key === "Delete" && !event.repeat && tiles[at]?.run && !tiles[at].run.live) this._delete(tiles[at].run);
  }

  get _columns() {
    const tops = [...this.list.children].map((child) => /** @type {HTMLElement} */ (child).offsetTop);
    const second = tops.findIndex((top) => top > tops[0]);
    return second < 0 ? tops.length : second;
  }
}
