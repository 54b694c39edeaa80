/** A run, or a prompt that waits, as a tile of the contact sheet: its picture, what it is made of, what to do with it. */

import { showWorkflow, toast } from "../host/comfy.js";
import { copied } from "./clipboard.js";
import { elementsOf, iconButton, setAttribute, setIcon, setText } from "./dom.js";
import { FinishButton, finishedText } from "./finish_button.js";
import { originTexts } from "./origin_text.js";
import { clockText } from "../data/pace.js";
import { unpacked } from "../data/packed.js";
import { endOf } from "../data/store.js";
import { stepText, t } from "../host/strings.js";

/** @typedef {import("../data/store.js").Run} Run */
/** @typedef {import("../data/queue.js").Waiting} Waiting */

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export class RunTile {
  /**
   * @param {Document} document
   * @param {import("./panel.js").Shared} shared
   * @param {import("../media/one_a_frame.js").OneAFrame} pictures
   * @param {(run: Run) => void} remove
   */
  constructor(document, shared, pictures, remove) {
    const element = elementsOf(document);
    this.shared = shared;
    this.pictures = pictures;
    this.remove = remove;
    /** @type {Run | null} */
    this.run = null;
    /** @type {Waiting | null} */
    this.waiting = null;
    this.promptId = "";
    /** Whether it is in sight. */
    this.inView = false;
    /** @type {import("../data/store.js").Frame | null} */
    this._shown = null;
    /** @type {unknown[]} what its texts and buttons were made from */
    this._facts = [];
    this._closing = new AbortController();

    const { watching, store } = shared;
    /** @param {string} icon @param {string} label @param {(run: Run) => void} act */
    const button = (icon, label, act) => iconButton(element, icon, label, () => this.run && act(this.run));
    this.canvas = element("canvas", { width: 1, height: 1 });
    this.state = element("span", { class: "ss-shot-state" });
    this.picture = element("button", { type: "button", class: "ss-shot-picture", onclick: () => this._show() }, this.canvas, this.state);
    this.star = button("star", t("sheet.star"), (run) => store.star(run, !run.starred));
    this.star.classList.add("ss-star");
    this.finish = new FinishButton(document, shared.liveSettings, () => this.run, this._closing.signal);
    this.skip = iconButton(element, "forward", t("sheet.skip"), () => void shared.queue.skip(this.promptId));
    this.compare = button("arrows-h", t("sheet.compare"), (run) => watching.mark(run));
    this.copySeed = iconButton(element, "copy", t("sheet.copySeed"), () => void this._copySeed());
    this.workflow = button("folder-open", t("sheet.workflow"), (run) => void openWorkflowOf(run));
    this.delete = button("trash", t("sheet.delete"), (run) => remove(run));
    this.actions = element(
      "div",
      { class: "ss-shot-actions" },
      this.finish.element,
      this.skip,
      this.compare,
      this.copySeed,
      this.workflow,
      this.delete,
    );
    this.seed = element("span", { class: "ss-shot-seed" });
    this.made = element("span");
    this.time = element("span");
    this.element = element(
      "div",
      { class: "ss-shot", role: "group" },
      element("div", { class: "ss-shot-frame" }, this.picture, this.star, this.actions),
      this.seed,
      this.made,
      this.time,
    );
    this.buttons = [this.picture, this.star, ...this.actions.querySelectorAll("button")];
  }

  /**
   * @param {Run | null} run
   * @param {Waiting | null} waiting the prompt, where it has no run yet
   */
  update(run, waiting) {
    this.run = run;
    this.waiting = waiting;
    this.promptId = run?.promptId ?? waiting?.promptId ?? "";
    const { watching } = this.shared;
    const [isWatched, isMarked] = [watching.run, watching.marked].map((one) => run !== null && one === run);
    const end = run && endOf(run);
    /** @type {unknown[]} */
    const facts = [run, run?.live, run?.canFinish, run?.step, run?.starred, run?.title, run?.origin, run?.finishedAt];
    facts.push(waiting?.running, isWatched, isMarked, end);
    if (facts.some((fact, i) => fact !== this._facts[i])) this._write(isWatched, isMarked);
    this._facts = facts;
    this._draw();
  }

  /**
   * @param {boolean} isWatched
   * @param {boolean} isMarked
   */
  _write(isWatched, isMarked) {
    const { run } = this;
    const isLive = run?.live ?? true;
    this.element.classList.toggle("ss-waiting-shot", run === null);
    this.element.classList.toggle("ss-watched", isWatched);
    this.element.classList.toggle("ss-marked", isMarked);
    this._describe();
    this.picture.setAttribute("aria-disabled", String(run === null));
    this.star.hidden = this.compare.hidden = run === null;
    this.star.setAttribute("aria-pressed", String(run?.starred ?? false));
    setIcon(this.star, run?.starred ? "star-fill" : "star", t(run?.starred ? "sheet.unstar" : "sheet.star"));
    this.compare.setAttribute("aria-pressed", String(isMarked));
    this.finish.update();
    this.finish.element.hidden = !run?.live || !run.canFinish;
    this.skip.hidden = !isLive;
    this.delete.hidden = isLive;
    this.copySeed.hidden = this.origin.seed === null;
    this.workflow.hidden = !run?.graph;
  }

  /** @param {boolean} inView */
  setInView(inView) {
    this.inView = inView;
    this._draw();
  }

  /** @param {boolean} on whether the Tab key reaches it */
  setReachable(on) {
    for (const button of this.buttons) button.tabIndex = on ? 0 : -1;
  }

  close() {
    this._closing.abort();
    this.setInView(false);
    this.element.remove();
  }

  /** @returns {import("../data/prompts.js").Origin} */
  get origin() {
    const { run, promptId, shared } = this;
    return run?.origin ?? shared.prompts.originOf(promptId, shared.prompts.samplerOf(promptId));
  }

  _describe() {
    const { run, origin } = this;
    const texts = originTexts(origin, run?.totalSteps || origin.steps);
    const title = run?.title ?? t("sheet.prompt");
    const seed = texts.seed || title;
    const end = run && endOf(run);
    const { clock: now } = this.shared.store;
    const took = run ? clockText((run.endedAt ?? now()) - run.begunAt) : "";
    const at = run?.live ? stepText({ seq: 0, ...run, outputNode: "" }) : end ? stepText(end) : "";
    const state = run ? at : t(this.waiting?.running ? "sheet.starting" : "sheet.waiting");
    setText(this.seed, seed);
    setText(this.made, [texts.sampler, texts.steps, texts.cfg].filter(Boolean).join(" · "));
    setText(this.time, took);
    setText(this.state, state);
    const name = t("sheet.name", { title, seed: texts.seed || "–" });
    const about = [name, this.made.textContent, state, took, finishedText(run), run && clock.format(run.startedAt)];
    setAttribute(this.picture, "title", about.filter(Boolean).join("\n"));
    setAttribute(this.element, "aria-label", name);
    setAttribute(this.picture, "aria-label", `${name}, ${state}`);
    const done = run?.live && run.totalSteps ? run.step / run.totalSteps : 0;
    this.picture.style.setProperty("--progress", String(done));
  }

  _draw() {
    const run = this.inView ? this.run : null;
    void this.shared.results.load(run);
    const frame = run && endOf(run);
    if (frame === this._shown) return;
    this._shown = frame;
    this.pictures.show(this.canvas, frame);
  }

  /** Show the run alone; one that goes on is followed. */
  _show() {
    const { run } = this;
    const { watching, store } = this.shared;
    if (!run) return;
    if (!run.live) watching.choose(run);
    else if (store.runs.filter((one) => one.live).length === 1) watching.follow();
    else watching.pin(run.displayNodeId);
  }

  async _copySeed() {
    const { seed } = this.origin;
    const isCopied = seed !== null && (await copied(this.copySeed, String(seed)));
    toast(isCopied ? "success" : "error", t(isCopied ? "sheet.seedCopied" : "sheet.seedNotCopied", { seed: seed ?? "" }));
  }
}

/** @param {Run} run */
async function openWorkflowOf(run) {
  try {
    const graph = await run.graph;
    if (!graph) throw new Error("the workflow is not there");
    const name = [run.origin.workflow, run.origin.seed].filter((part) => part !== null && part !== "").join(" ");
    await showWorkflow(await unpacked(graph), name || run.title);
  } catch (error) {
    toast("error", t("sheet.noWorkflow", { why: String(error) }));
  }
}
