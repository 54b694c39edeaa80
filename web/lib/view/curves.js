/**
 * The curves of the watched run, and of the one that it is compared with: how much x0 still changes,
 * sigma, and the time of each step. A step has the same place as on the bar above.
 */

import { elementsOf, fold, setAttribute, setText, svg } from "./dom.js";
import { NOTHING } from "./progress.js";
import { NAMES, SETTLED, curvesOf, pointAt, settledAfter, topOf } from "../data/curves.js";
import { slotCount, slotOf } from "../data/slots.js";
import { leftToRight, t } from "../host/strings.js";

/** @typedef {import("../data/curves.js").Point} Point */
/** @typedef {import("../data/store.js").Frame} Frame */
/** @typedef {import("../data/store.js").Run} Run */
/** @typedef {typeof NAMES[number]} Name */
/** @typedef {ReturnType<Curves["_row"]>} Row */

/** What is drawn, from below: the compared run and its step, then the watched one and its step. */
const LINES = /** @type {const} */ (["there", "other", "here", "own"]);

export class Curves {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   */
  constructor(document, { watching }) {
    const element = elementsOf(document);
    this.make = element;
    this.watching = watching;
    this.rows = NAMES.map((name) => this._row(document, name));
    this.answer = element("span", { class: "ss-answer", title: t("curves.answerTooltip", { percent: percent(SETTLED) }) });
    const summary = [t("curves.label"), " ", this.answer];
    this.element = fold(element, "curves", () => this.update(), summary, ...this.rows.map((row) => row.element));
    this.element.hidden = true;
  }

  /**
   * @param {Document} document
   * @param {Name} name
   */
  _row(document, name) {
    const element = this.make;
    const own = element("span", { class: "ss-curve-value" });
    const other = element("span", { class: "ss-curve-value ss-curve-other" });
    const paths = LINES.map((line) => svg(document, "path", { class: `ss-curve-${line}` }));
    const chart = svg(document, "svg", { preserveAspectRatio: "none" }, ...paths);
    const caption = element("div", { class: "ss-curve-caption" }, element("span", {}, t(`curves.${name}`)), own, other);
    const row = element("div", { class: "ss-curve", role: "img", title: t(`curves.${name}Tooltip`) }, caption, chart);
    return { name, element: row, own, other, chart, paths };
  }

  /** Show the curves of the watched run, if there are any. */
  update() {
    const { run, frame, against } = this.watching;
    const curves = run && curvesOf(run);
    this.element.hidden = !curves || NAMES.every((name) => curves[name].length === 0);
    if (!run || !curves || this.element.hidden) return;
    setText(this.answer, answerOf(run, curves.change));
    if (!this.element.open) return;
    const other = against && against.run !== run ? curvesOf(against.run) : null;
    const count = Math.max(slotCount(run), other && against ? slotCount(against.run) : 0, 1);
    for (const row of this.rows) {
      this._draw(row, count, { points: curves[row.name], frame }, { points: other?.[row.name] ?? [], frame: against });
    }
  }

  /**
   * @param {Row} row
   * @param {number} count of the places on the bar
   * @param {{ points: Point[], frame: Frame | null }} own
   * @param {{ points: Point[], frame: Frame | null }} other nothing if none is compared
   */
  _draw({ name, element, chart, paths, ...values }, count, own, other) {
    const all = [...own.points, ...other.points];
    element.hidden = all.length === 0;
    if (element.hidden) return;
    const top = topOf(all, name);
    setAttribute(chart, "viewBox", `0 0 ${count} 1`);
    const drawn = { own: line(own.points, top), other: line(other.points, top), here: mark(own.frame), there: mark(other.frame) };
    LINES.forEach((each, i) => setAttribute(paths[i], "d", drawn[each]));
    const said = [own, other].map(({ points, frame }) => valueText(name, frame && pointAt(points, slotOf(frame))));
    setText(values.own, said[0]);
    setText(values.other, other.points.length ? said[1] : "");
    const first = textOf(name, all[0].value);
    const last = textOf(name, own.points.at(-1)?.value ?? NaN);
    const label = [
      t("curves.said", { name: t(`curves.${name}`), value: said[0], first, last }),
      other.points.length ? t("curves.saidOfOther", { value: said[1] }) : "",
    ].join(" ").trim();
    setAttribute(element, "aria-label", label);
  }
}

/**
 * How many steps it took, in a few words.
 *
 * @param {Run} run
 * @param {Point[]} changes
 */
function answerOf(run, changes) {
  const last = changes.at(-1);
  if (!last) return "";
  const after = settledAfter(changes);
  if (run.live || after === null) return t("curves.now", { percent: percent(last.value) });
  if (after >= last.step) return t("curves.unsettled", { percent: percent(last.value) });
  return t("curves.settled", { percent: percent(SETTLED), step: after, total: last.step });
}

/**
 * @param {Point[]} points
 * @param {number} top
 */
function line(points, top) {
  const at = ({ slot, value } = points[0]) => `${slot + 0.5} ${(1 - (value / top) * 0.94).toFixed(3)}`;
  if (points.length === 1) return `M${at()}h.001`; // a dot
  return points.map((point, i) => `${i && point.stage === points[i - 1].stage ? "L" : "M"}${at(point)}`).join("");
}

/** @param {Frame | null} frame */
function mark(frame) {
  return frame ? `M${slotOf(frame) + 0.5} 0v1` : "";
}

/**
 * @param {Name} name
 * @param {Point | null} point
 */
function valueText(name, point) {
  if (!point) return NOTHING;
  const value = textOf(name, point.value);
  return point.from < point.step ? t("curves.span", { value, from: point.from, to: point.step }) : value;
}

/**
 * @param {Name} name
 * @param {number} value
 */
function textOf(name, value) {
  if (!isFinite(value)) return NOTHING;
  if (name === "change") return percent(value);
  if (name === "sigma") return String(Number(value.toPrecision(3)));
  return leftToRight(value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);
}

/** @param {number} share */
function percent(share) {
  return leftToRight(`${Number((share * 100).toPrecision(2))}\u00a0%`);
}
