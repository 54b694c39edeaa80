/** How each device's previews are made, in plain words, and what is wrong with it. */

import { elementsOf } from "./dom.js";
import { t } from "../host/strings.js";

/** @typedef {{ device: string, path: string, problem: string | null }} Device as the server describes it */

/** The server's names of its paths; a device in one becomes a value of the text. */
const PATHS = /** @type {[RegExp, string][]} */ ([
  [/^side stream of (?<stream>.+)$/, "sideStream"],
  [/^CPU, copied by a side stream of (?<stream>.+)$/, "hostCopy"],
  [/^CPU, copied by the sampler's thread$/, "samplerCopy"],
  [/^CPU$/, "cpu"],
  [/^ComfyUI's own previewer$/, "host"],
]);

export class Devices {
  /**
   * @param {Document} document
   * @param {import("../data/status.js").ServerStatus} status
   */
  constructor(document, status) {
    this.make = elementsOf(document);
    this.status = status;
    this.element = this.make("ul", { class: "ss-devices", "aria-label": t("devices.label"), hidden: true });
    this._shown = "";
  }

  /** Show what the server said last. */
  update() {
    /** @type {Device[]} */
    const devices = this.status.latest?.devices ?? [];
    const lines = devices.map((device) => ({ text: pathText(device), problem: device.problem ?? "" }));
    const told = JSON.stringify(lines);
    if (told === this._shown) return;
    this._shown = told;
    this.element.hidden = lines.length === 0;
    this.element.replaceChildren(...lines.map((line) => this._line(line)));
  }

  /** @param {{ text: string, problem: string }} line */
  _line({ text, problem }) {
    const why = problem && this.make("span", { class: "ss-problem" }, `⚠ ${problem}`);
    return this.make("li", {}, text, ...(why ? [" ", why] : []));
  }
}

/** @param {Device} device */
function pathText({ device, path }) {
  for (const [pattern, key] of PATHS) {
    const found = pattern.exec(path);
    if (found) return t(`devices.${key}`, { device, ...found.groups });
  }
  return `${device}: ${path}`;
}
