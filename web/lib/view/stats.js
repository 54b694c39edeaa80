/** The details: rate, latency, drops, share of the device, decoder and size, where previews are decoded. */

import { Devices } from "./devices.js";
import { elementsOf, keepFromPage, setText, whenEnded } from "./dom.js";
import { NOTHING, statTiles } from "./progress.js";
import { SECONDS } from "../data/rates.js";
import { leftToRight, t } from "../host/strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("../data/store.js").Run} Run */

const SVG = "http://www.w3.org/2000/svg";
const NAMES = /** @type {const} */ (["rate", "latency", "dropped", "share", "picture"]);

/** Where the browser remembers that the details are open. */
const OPEN = "SideStream.details";

/** @type {Record<string, string>} */
const DECODERS = { taesd: "TAESD", latent2rgb: "Latent2RGB", taehv: "TAEHV", vae: "VAE" };

export class Stats {
  /**
   * @param {Document} document
   * @param {Shared} shared
   * @param {AbortSignal} signal
   */
  constructor(document, shared, signal) {
    const element = elementsOf(document);
    this.shared = shared;
    const { values, tiles } = statTiles(element, NAMES);
    this.values = values;
    this.tiles = tiles;
    this.line = document.createElementNS(SVG, "polyline");
    const chart = document.createElementNS(SVG, "svg");
    chart.setAttribute("viewBox", `0 0 ${SECONDS - 1} 10`);
    chart.setAttribute("preserveAspectRatio", "none");
    chart.setAttribute("aria-hidden", "true");
    chart.append(this.line);
    this.chart = element("div", { class: "ss-spark", role: "img", title: t("stats.sparkTooltip") });
    this.chart.append(chart);
    this.devices = new Devices(document, shared.status);
    const numbers = element("dl", { "aria-label": t("stats.label") }, ...Object.values(this.tiles));
    this.element = element(
      "details",
      { class: "ss-details", open: localStorage.getItem(OPEN) !== null, ontoggle: () => this._onToggle() },
      element("summary", { onkeydown: keepFromPage }, t("stats.details")),
      element("div", { class: "ss-stats" }, numbers, this.chart, this.devices.element),
    );
    const timer = setInterval(() => this.update(), 1000);
    whenEnded(signal, () => clearInterval(timer));
  }

  _onToggle() {
    if (this.element.open) localStorage.setItem(OPEN, "open");
    else localStorage.removeItem(OPEN);
    this.update();
  }

  /** Show the current numbers, if they are open. */
  update() {
    if (!this.element.open) return;
    const { watching, rates, status } = this.shared;
    const { frame, run } = watching;
    const rate = rates.now();
    const share = status.share;
    const picture = frame ? pictureText(frame) : NOTHING;
    setText(this.values.rate, rate ? t("stats.perSecond", { rate: rate.toFixed(1) }) : NOTHING);
    setText(this.values.latency, frame && frame.latencyMs >= 0 ? leftToRight(`${Math.round(frame.latencyMs)} ms`) : NOTHING);
    setText(this.values.dropped, run && !run.foreign ? String(run.dropped) : NOTHING);
    setText(this.values.share, share === null ? NOTHING : leftToRight(`${(share * 100).toFixed(1)} %`));
    setText(this.values.picture, picture);
    this.tiles.dropped.title = droppedTooltip(run);
    this.tiles.picture.title = `${picture}\n${t("stats.pictureTooltip")}`;
    this.devices.update();
    this._drawLine();
  }

  _drawLine() {
    const counts = this.shared.rates.minute();
    const top = Math.max(4, ...counts);
    const points = counts.map((count, second) => `${second},${(9.5 - (count / top) * 9).toFixed(2)}`);
    this.line.setAttribute("points", points.join(" "));
    const label = t("stats.sparkLabel", { most: Math.max(...counts) });
    if (this.chart.getAttribute("aria-label") !== label) this.chart.setAttribute("aria-label", label);
  }
}

/** @param {import("../data/store.js").Frame} frame */
function pictureText(frame) {
  const decoder = frame.decoder === "spectrogram" ? t("stats.spectrogram") : (DECODERS[frame.decoder] ?? frame.decoder);
  const size = frame.width ? leftToRight(`${frame.width} × ${frame.height}`) : "";
  return [decoder, size].filter(Boolean).join(" · ") || NOTHING;
}

/** @param {Run | null} run */
function droppedTooltip(run) {
  const reasons = Object.entries(run?.outcomes ?? {})
    .filter(([outcome, count]) => outcome !== "sent" && count > 0)
    .map(([outcome, count]) => t(`outcomes.${outcome}`, { count }));
  return [t("stats.droppedTooltip"), ...reasons].join("\n");
}
