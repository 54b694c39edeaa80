/** The watch page in ComfyUI's settings: its switch, its address as a QR code, and another address. */

import { watchAddress } from "../data/sharing.js";
import { toast } from "../host/comfy.js";
import { t, writing } from "../host/strings.js";
import { qrCode, qrPath } from "../media/qr_code.js";
import { elementsOf, keepFromPage, setText, svg } from "./dom.js";
import { copied } from "./clipboard.js";

const ASKING_MS = 3000;
const LOOK_AGAIN_MS = 3000;

/** @typedef {import("../data/sharing.js").Sharing} Sharing */

/**
 * The entry of the dialog, which draws it itself: nothing of it is stored among ComfyUI's settings.
 *
 * @param {Sharing} sharing
 */
export function sharingSetting(sharing) {
  return {
    id: "SideStream.watch_page",
    name: "Share previews",
    tooltip:
      "Show the previews of everything you queue from ComfyUI's page on a page for a phone, a second screen or OBS, to whoever has its address.",
    category: ["SideStream", "Watch page", "Share previews"],
    defaultValue: null,
    type: () => new SharingSetting(document, sharing).element,
  };
}

class SharingSetting {
  /**
   * @param {Document} document
   * @param {Sharing} sharing
   */
  constructor(document, sharing) {
    this.document = document;
    this.sharing = sharing;
    const element = (this.make = elementsOf(document));
    this.toggle = element("input", {
      type: "checkbox",
      role: "switch",
      "aria-label": t("sharing.share"),
      onchange: () => void this._change({ on: this.toggle.checked }),
    });
    this.shown = element("div", { class: "ss-shared", ...writing() });
    this.watchers = element("p", { role: "status" });
    this._address = "";
    this.element = element("div", { class: "ss-sharing", onkeydown: keepFromPage }, this.toggle, this.shown);
    this._update();
    void this._ask(); // another page may have changed it
    const timer = setInterval(() => {
      if (!this.element.isConnected) clearInterval(timer);
      else if (this.sharing.told?.on) void this._ask(); // watchers come and go
    }, LOOK_AGAIN_MS);
  }

  async _ask() {
    await this.sharing.load();
    this._update();
  }

  /** @param {Parameters<Sharing["change"]>[0]} what */
  async _change(what) {
    try {
      await this.sharing.change(what);
    } catch (error) {
      toast("error", t("sharing.failed", { why: error instanceof Error ? error.message : String(error) }));
    }
    this._update();
  }

  _update() {
    const { told } = this.sharing;
    this.toggle.disabled = !told;
    this.toggle.checked = told?.on ?? false;
    setText(this.watchers, t("sharing.watchers", { count: told?.watchers ?? 0 }));
    const address = told?.on ? watchAddress(told).address : "";
    if (address === this._address) return;
    this._address = address;
    this.shown.replaceChildren(...(told?.on ? this._details(told) : []));
  }

  /** @param {import("../data/sharing.js").Shared} told */
  _details(told) {
    const { make: element, document } = this;
    const { address, host, reach } = watchAddress(told);
    const field = element("input", { type: "text", readonly: true, dir: "ltr", value: address, "aria-label": t("sharing.address") });
    field.addEventListener("focus", () => field.select());
    const copy = this._button("copy", t("sharing.copy"), async () => {
      if (await copied(copy, address)) toast("success", t("sharing.copied"));
      else field.focus();
    });
    const open = element(
      "a",
      { class: "ss-icon-button", href: address, target: "_blank", rel: "noopener noreferrer" },
      element("i", { class: "pi pi-external-link", "aria-hidden": "true" }),
      t("sharing.open"),
    );
    const notes = [
      reach === "replaced" ? t("sharing.replaced", { host, address: new URL(address).hostname }) : "",
      reach === "here" ? t("sharing.onlyHere", { host }) : "",
      reach === "here" || new URL(address).protocol === "https:" ? "" : t("sharing.noLock"),
      t("sharing.who"),
    ];
    return [
      qrElement(document, address),
      field,
      element("div", { class: "ss-shared-buttons" }, copy, open, this._renewButton()),
      this.watchers,
      ...notes.filter(Boolean).map((note) => element("p", {}, note)),
    ];
  }

  /** The first click asks. */
  _renewButton() {
    let isAsking = false;
    const button = this._button("refresh", t("sharing.renew"), () => {
      if (isAsking) return void this._change({ renew: true });
      isAsking = true;
      label(t("sharing.sure"));
      setTimeout(() => {
        isAsking = false;
        label(t("sharing.renew"));
      }, ASKING_MS);
    });
    const label = (/** @type {string} */ text) => button.lastChild?.replaceWith(text);
    button.title = t("sharing.renewTooltip");
    return button;
  }

  /**
   * @param {string} icon
   * @param {string} label
   * @param {() => void} act
   */
  _button(icon, label, act) {
    const image = this.make("i", { class: `pi pi-${icon}`, "aria-hidden": "true" });
    return this.make("button", { type: "button", class: "ss-icon-button", onclick: act }, image, label);
  }
}

/**
 * @param {Document} document
 * @param {string} address
 * @returns {Element} empty if the address is too long
 */
function qrElement(document, address) {
  const code = qrCode(address);
  if (!code) return document.createElement("span");
  const size = code.length + 8;
  const attributes = { viewBox: `0 0 ${size} ${size}`, class: "ss-qr", role: "img", "aria-label": t("sharing.qr") };
  return svg(document, "svg", attributes, svg(document, "path", { d: qrPath(code) }));
}
