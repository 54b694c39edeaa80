/** The details: rate, latency, drops, share of the device, decoder and size, where previews are decoded. */

import { Devices } from "./devices.js";
import { elementsOf, fold, setAttribute, setText, svg, whenEnded } from "./dom.js";
import { NOTHING, statTiles } from "./progress.js";
import { SECONDS } from "../data/rates.js";
import { leftToRight, t } from "../host/strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("../data/store.js").Run} Run */

const NAMES = /** @type {const} */ (["rate", "latency", "dropped", "share", "picture"]);

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
    this.line = svg(document, "polyline");
    const box = { viewBox: `0 0 ${SECONDS - 1} 10`, preserveAspectRatio: "none", "aria-hidden": "true" };
    const spark = svg(document, "svg", box, this.line);
    this.chart = element("div", { class: "ss-spark", role: "img", title: t("stats.sparkTooltip") }, spark);
    this.devices = new Devices(document, shared.status);
    const numbers = element("dl", { "aria-label": t("stats.label") }, ...Object.values(this.tiles));
    const content = element("div", { class: "ss-stats" }, numbers, this.chart, this.devices.element);
    this.element = fold(element, "details", () => this.update(), [t("stats.details")], content);
    const timer = setInterval(() => this.update(), 1000);
    whenEnded(signal, () => clearInterval(timer));
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
    setAttribute(this.chart, "aria-label", t("stats.sparkLabel", { most: Math.max(...counts) }));
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
