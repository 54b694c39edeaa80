/** All samplers of the newest prompt side by side. */

import { elementsOf, setText } from "./dom.js";
import { PageRenderer } from "../media/renderer.js";
import { endOf } from "../data/store.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("../data/watching.js").Watching} Watching */
/** @typedef {{ element: HTMLElement, caption: HTMLElement, renderer: PageRenderer }} Tile */

const TILE_SIDE = 768;

export class Grid {
  /**
   * @param {Document} document
   * @param {Watching} watching
   */
  constructor(document, watching) {
    this.make = elementsOf(document);
    this.watching = watching;
    const hint = this.make("p", { class: "ss-hint ss-grid-hint" }, t("tabs.notInAll"));
    this.list = this.make("div", { class: "ss-tiles" });
    this.element = this.make("div", { class: "ss-grid", hidden: true }, hint, this.list);
    /** @type {Map<import("../data/store.js").Run, Tile>} */
    this.tiles = new Map();
  }

  /** Show what there is. */
  update() {
    this.element.hidden = !this.watching.grid;
    const runs = this.watching.grid ? this.watching.store.current : [];
    for (const [run, tile] of this.tiles) {
      if (runs.includes(run)) continue;
      tile.element.remove();
      this.tiles.delete(run);
    }
    for (const run of runs) {
      const tile = this.tiles.get(run) ?? this._add(run);
      const newest = endOf(run);
      tile.renderer.show(newest);
      setText(tile.caption, newest ? `${run.title} · ${stepText(newest)}` : run.title);
    }
  }

  /**
   * @param {import("../data/store.js").Run} run
   * @returns {Tile}
   */
  _add(run) {
    const canvas = this.make("canvas", { width: 1, height: 1 });
    const caption = this.make("span", { class: "ss-tile-caption" });
    const pin = () => this.watching.pin(run.displayNodeId);
    const element = this.make(
      "button",
      { type: "button", class: "ss-tile", onclick: pin },
      canvas,
      caption,
    );
    const tile = { element, caption, renderer: new PageRenderer(canvas, undefined, TILE_SIDE) };
    this.list.append(element);
    this.tiles.set(run, tile);
    return tile;
  }
}
