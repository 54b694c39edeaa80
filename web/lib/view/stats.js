/** The numbers: step, rate, latency, drops, share of the device, decoder and size. */

import { Devices } from "./devices.js";
import { elementsOf, setText, whenEnded } from "./dom.js";
import { SECONDS } from "../data/rates.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("./panel.js").Shared} Shared */
/** @typedef {import("../data/store.js").Run} Run */

const SVG = "http://www.w3.org/2000/svg";
const NAMES = /** @type {const} */ (["step", "rate", "latency", "dropped", "share", "picture"]);
const NOTHING = "–";

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
    /** @type {Record<string, HTMLElement>} */
    this.values = {};
    /** @type {Record<string, HTMLElement>} */
    this.tiles = {};
    for (const name of NAMES) {
      this.values[name] = element("dd", {}, NOTHING);
      this.tiles[name] = element(
        "div",
        { class: `ss-stat ss-stat-${name}`, title: t(`stats.${name}Tooltip`) },
        element("dt", {}, t(`stats.${name}`)),
        this.values[name],
      );
    }
    this.notFinite = element("span", { class: "ss-warning", role: "img", hidden: true });
    this.tiles.picture.append(this.notFinite);
    this.line = document.createElementNS(SVG, "polyline");
    const chart = document.createElementNS(SVG, "svg");
    chart.setAttribute("viewBox", `0 0 ${SECONDS - 1} 10`);
    chart.setAttribute("preserveAspectRatio", "none");
    chart.setAttribute("aria-hidden", "true");
    chart.append(this.line);
    this.chart = element("div", { class: "ss-spark", role: "img", title: t("stats.sparkTooltip") });
    this.chart.append(chart);
    this.devices = new Devices(document, shared.status);
    this.element = element(
      "div",
      { class: "ss-stats" },
      element("dl", { "aria-label": t("stats.label") }, ...Object.values(this.tiles)),
      this.chart,
      this.devices.element,
    );
    const timer = setInterval(() => this.update(), 1000);
    whenEnded(signal, () => clearInterval(timer));
  }

  /** Show the current numbers. */
  update() {
    const { watching, rates, status, liveSettings, store } = this.shared;
    const { frame, run } = watching;
    // Where no picture comes, none says which step it is.
    const isGoing = (/** @type {Run} */ one) => one.live && !one.foreign && liveSettings.silences(one);
    const going = watching.isLive ? store.runs.findLast(isGoing) : null;
    const rate = rates.now();
    const share = status.share;
    const picture = frame ? pictureText(frame) : NOTHING;
    setText(this.values.step, going?.totalSteps ? stepText({ ...going, seq: 0 }) : frame ? stepText(frame) : NOTHING);
    setText(this.values.rate, rate ? t("stats.perSecond", { rate: rate.toFixed(1) }) : NOTHING);
    setText(this.values.latency, frame && frame.latencyMs >= 0 ? `${Math.round(frame.latencyMs)} ms` : NOTHING);
    setText(this.values.dropped, run && !run.foreign ? String(run.dropped) : NOTHING);
    setText(this.values.share, share === null ? NOTHING : `${(share * 100).toFixed(1)} %`);
    setText(this.values.picture, picture);
    this.tiles.dropped.title = droppedTooltip(run);
    this.tiles.picture.title = `${picture}\n${t("stats.pictureTooltip")}`;
    this._warn(frame?.notFinite ?? 0);
    this.devices.update();
    this._drawLine();
  }

  /** @param {number} count of positions that are no numbers */
  _warn(count) {
    this.notFinite.hidden = count === 0;
    if (count === 0) return;
    const label = t("stats.notFinite", { count });
    setText(this.notFinite, `⚠ ${count}`);
    this.notFinite.title = label;
    if (this.notFinite.ariaLabel !== label) this.notFinite.setAttribute("aria-label", label);
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
  const size = frame.width ? `${frame.width} × ${frame.height}` : "";
  return [decoder, size].filter(Boolean).join(" · ") || NOTHING;
}

/** @param {Run | null} run */
function droppedTooltip(run) {
  const reasons = Object.entries(run?.outcomes ?? {})
    .filter(([outcome, count]) => outcome !== "sent" && count > 0)
    .map(([outcome, count]) => t(`outcomes.${outcome}`, { count }));
  return [t("stats.droppedTooltip"), ...reasons].join("\n");
}
