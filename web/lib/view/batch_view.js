/** The images of a batch in one picture: choose one to see it alone, and go back to all of them. */

import { elementsOf, iconButton, setText } from "./dom.js";
import { t } from "../host/strings.js";

/** @typedef {import("../data/cells.js").Cells} Cells */
/** @typedef {import("../data/watching.js").Watching} Watching */

export class BatchView {
  /**
   * @param {Document} document
   * @param {Watching} watching
   */
  constructor(document, watching) {
    const element = elementsOf(document);
    this.make = element;
    this.watching = watching;
    /** @type {Cells | null} */
    this.layout = null;
    /** The cell that the Tab key reaches. */
    this.current = 0;
    this._key = "";

    /** Lies over the picture. */
    this.cells = element("div", {
      class: "ss-cells",
      role: "group",
      "aria-label": t("batch.label"),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this._onCellKey(event),
    });
    this.name = element("span", { class: "ss-image-name", "aria-live": "polite" });
    this.all = element(
      "button",
      { type: "button", class: "ss-all-images", title: t("batch.allTooltip"), onclick: () => this.back() },
      element("i", { class: "pi pi-th-large", "aria-hidden": "true" }),
      t("batch.all"),
    );
    /** Stands in a corner while one image is shown. */
    this.chosen = element(
      "div",
      {
        class: "ss-chosen",
        role: "group",
        "aria-label": t("batch.label"),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this._onChosenKey(event),
        onpointerdown: (/** @type {PointerEvent} */ event) => event.stopPropagation(),
        ondblclick: (/** @type {MouseEvent} */ event) => event.stopPropagation(),
      },
      this.all,
      iconButton(element, "chevron-left", t("batch.previous"), () => this._showOther(-1)),
      this.name,
      iconButton(element, "chevron-right", t("batch.next"), () => this._showOther(1)),
    );
  }

  /** Show what there is to choose from. */
  update() {
    const { watching } = this;
    const { image } = watching;
    this.layout = watching.against ? null : ((watching.playing ?? watching.frame)?.cells ?? null);
    this.cells.hidden = !this.layout || image !== null;
    this.chosen.hidden = !this.layout || image === null;
    if (!this.layout) return;
    this._makeCells(this.layout);
    if (image !== null) setText(this.name, nameOf(image, this.layout));
  }

  /**
   * Cover the picture, wherever it is.
   *
   * @param {HTMLElement} picture
   */
  cover(picture) {
    const { width, height, transform } = picture.style;
    Object.assign(this.cells.style, { width, height, transform });
  }

  /** Show all images. */
  back() {
    const { image } = this.watching;
    const hadFocus = this.chosen.contains(this.chosen.ownerDocument.activeElement);
    this.watching.showImage(null);
    if (hadFocus && image !== null) this._focus(this.layout?.images.indexOf(image) ?? 0);
  }

  /** @param {Cells} layout */
  _makeCells(layout) {
    const { columns, rows, images } = layout;
    const key = `${columns} ${rows} ${images}`;
    if (key === this._key) return;
    this._key = key;
    this.current = 0;
    this.cells.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
    this.cells.replaceChildren(
      ...images.map((image, cell) => {
        const name = nameOf(image, layout);
        return this.make(
          "button",
          {
            type: "button",
            class: "ss-cell",
            tabindex: cell === 0 ? 0 : -1,
            title: t("batch.choose", { name }),
            "aria-label": name,
            onclick: () => this._choose(image),
          },
          this.make("span", { "aria-hidden": "true" }, String(image + 1)),
        );
      }),
    );
  }

  /** @param {number} image */
  _choose(image) {
    const hadFocus = this.cells.contains(this.cells.ownerDocument.activeElement);
    this.watching.showImage(image);
    this.update();
    if (hadFocus) this.all.focus({ preventScroll: true });
  }

  /** @param {number} by */
  _showOther(by) {
    const { layout, watching } = this;
    if (!layout || watching.image === null) return;
    const { images } = layout;
    watching.showImage(images[(images.indexOf(watching.image) + by + images.length) % images.length]);
  }

  /** @param {number} cell */
  _focus(cell) {
    const buttons = /** @type {NodeListOf<HTMLElement>} */ (this.cells.querySelectorAll("button"));
    if (!buttons[cell]) return;
    buttons[this.current].tabIndex = -1;
    buttons[cell].tabIndex = 0;
    buttons[cell].focus({ preventScroll: true });
    this.current = cell;
  }

  /** @param {KeyboardEvent} event */
  _onCellKey(event) {
    const { layout } = this;
    if (!layout) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.columns, ArrowDown: layout.columns }[event.key];
    if (step !== undefined) this._focus(this.current + step);
    else if (!this._chooseByNumber(event) && event.key !== "Enter" && event.key !== " ") return;
    if (step !== undefined) event.preventDefault();
    event.stopPropagation();
  }

  /** @param {KeyboardEvent} event */
  _onChosenKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step !== undefined) this._showOther(step);
    else if (event.key === "Escape") this.back();
    else if (!this._chooseByNumber(event) && event.key !== "Enter" && event.key !== " ") return;
    event.stopPropagation();
  }

  /**
   * @param {KeyboardEvent} event
   * @returns {boolean} whether the key is the number of an image
   */
  _chooseByNumber(event) {
    const image = Number(event.key) - 1;
    if (event.key === " " || !this.layout?.images.includes(image)) return false;
    this._choose(image);
    return true;
  }
}

/**
 * @param {number} image
 * @param {Cells} layout of which the batch has the last image at least
 */
function nameOf(image, layout) {
  return t("batch.name", { image: image + 1, count: Math.max(...layout.images) + 1 });
}
