/** One view of the previews, for the sidebar, the bottom panel or a window of its own. */

import { ContactSheet } from "./contact_sheet.js";
import { Controls } from "./controls.js";
import { Curves } from "./curves.js";
import { elementsOf, iconButton, setAttribute, setIcon, setText } from "./dom.js";
import { FinishButton, finishedText } from "./finish_button.js";
import { Grid } from "./grid.js";
import { PlayerBar } from "./player_bar.js";
import { waitingText } from "./progress.js";
import { SoundBar } from "./sound_bar.js";
import { Stats } from "./stats.js";
import { reportButton } from "./report.js";
import { Viewer } from "./viewer.js";
import { fileOf } from "../data/sounds.js";
import { notice } from "../data/status.js";
import { SoundPlayer } from "../media/sound_player.js";
import { SamplerTabs } from "./sampler_tabs.js";
import { Timeline } from "./timeline.js";
import { leftToRight, onLanguage, t, writing } from "../host/strings.js";

/**
 * @typedef {object} Shared What all panels share.
 * @property {import("../data/store.js").FrameStore} store
 * @property {import("../data/watching.js").Watching} watching
 * @property {import("../data/settings.js").Settings} settings
 * @property {import("../data/live_settings.js").LiveSettings} liveSettings
 * @property {import("../data/status.js").ServerStatus} status
 * @property {import("../data/rates.js").Rates} rates
 * @property {import("../data/prompts.js").Prompts} prompts
 * @property {import("../data/results.js").Results} results
 * @property {import("../data/queue.js").Queue} queue
 * @property {import("../data/run_archive.js").RunArchive} archive
 * @property {() => void} popOut
 */

/**
 * Keep the keys that remove the selected nodes from the page.
 *
 * @param {KeyboardEvent} event
 */
function keepDeletionFromPage(event) {
  if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation();
}

/**
 * @param {SoundPlayer} player
 * @returns {number | null} where in all of a sound it is, from 0 to 1, while it plays by itself
 */
function momentOf({ sound, follows, on, seconds }) {
  return sound && on && !follows ? seconds / sound.ofSeconds : null;
}

/** @type {Set<string>} notices that the user has dismissed */
const dismissed = new Set();

/**
 * Fill `container` with a panel. When the page takes another language the panel is filled anew, but stays
 * in full screen.
 *
 * @param {HTMLElement} container
 * @param {Shared} shared
 * @param {{ canPopOut?: boolean }} [options]
 * @returns {() => void} removes it again
 */
export function openPanel(container, shared, { canPopOut = true } = {}) {
  const closing = new AbortController();
  const root = elementsOf(container.ownerDocument)("section", { class: "sidestream", onkeydown: keepDeletionFromPage });
  container.classList.add("ss-host");
  container.append(root);
  let filled = fillPanel(root, shared, canPopOut);
  onLanguage(
    () => {
      const { state } = filled.viewer;
      filled.close();
      filled = fillPanel(root, shared, canPopOut);
      filled.viewer.continueFrom(state);
    },
    closing.signal,
  );
  return () => {
    closing.abort();
    filled.close();
    root.remove();
    container.classList.remove("ss-host");
  };
}

/**
 * @param {HTMLElement} root of a panel
 * @param {Shared} shared
 * @param {boolean} canPopOut
 */
function fillPanel(root, shared, canPopOut) {
  const closing = new AbortController();
  const { signal } = closing;
  const document = root.ownerDocument;
  const element = elementsOf(document);
  const window = /** @type {Window & typeof globalThis} */ (document.defaultView);

  const viewer = new Viewer(document, shared.watching, signal);
  const playerBar = new PlayerBar(document, shared.watching, viewer.player, signal);
  const soundPlayer = new SoundPlayer(window, viewer.player, (sound) => fileOf(shared.store, sound));
  const soundBar = new SoundBar(document, shared.watching, soundPlayer, signal);
  soundPlayer.addEventListener("change", () => viewer.showMoment(momentOf(soundPlayer)));
  const grid = new Grid(document, shared.watching);
  const sheet = new ContactSheet(document, shared, signal);
  const tabs = new SamplerTabs(document, shared);
  const stats = new Stats(document, shared, signal);
  const timeline = new Timeline(document, shared, viewer.player, signal);
  const curves = new Curves(document, shared);
  const controls = new Controls(document, shared);
  const finish = new FinishButton(document, shared.liveSettings, () => shared.watching.run, signal);
  const finished = element("span", { class: "ss-finished", role: "status" });

  const fit = iconButton(element, "arrows-alt", t("viewer.fit"), () => viewer.setZoom(null));
  const exact = element(
    "button",
    { type: "button", class: "ss-icon-button", title: t("viewer.exact"), "aria-label": t("viewer.exact"), onclick: () => viewer.setZoom(1) },
    "1:1",
  );
  const zoomText = element("span", { class: "ss-zoom", "aria-live": "off" });
  const zooms = element(
    "span",
    { class: "ss-zooms" },
    iconButton(element, "minus", t("viewer.zoomOut"), () => viewer.zoomBy(-1)),
    zoomText,
    iconButton(element, "plus", t("viewer.zoomIn"), () => viewer.zoomBy(1)),
  );
  const fullScreen = iconButton(element, "window-maximize", t("viewer.fullScreen"), () => {
    if (document.fullscreenElement) void document.exitFullscreen();
    else void root.requestFullscreen();
  });
  fullScreen.hidden = !document.fullscreenEnabled; // as on iPhones
  const popOut = canPopOut ? iconButton(element, "external-link", t("viewer.popOut"), shared.popOut) : null;
  const toolbar = element(
    "div",
    { class: "ss-toolbar", role: "toolbar", "aria-label": t("viewer.toolbar") },
    controls.pause,
    finish.element,
    controls.stop,
    element("span", { class: "ss-space" }),
    zooms,
    fit,
    exact,
    fullScreen,
    popOut,
    finished,
  );
  const noticeText = element("span");
  const noticeLink = /** @type {HTMLAnchorElement} */ (
    element("a", { class: "ss-notice-link", target: "_blank", rel: "noopener", hidden: true })
  );
  let noticeKey = "";
  const noticeBar = element(
    "div",
    { class: "ss-notice", role: "status", hidden: true },
    element("i", { class: "pi pi-info-circle", "aria-hidden": "true" }),
    element("div", { class: "ss-notice-words" }, noticeText, noticeLink),
    iconButton(element, "times", t("notices.putAway"), () => {
      dismissed.add(noticeKey);
      showNotice();
    }),
  );
  const newRun = element(
    "button",
    { type: "button", class: "ss-new-run", hidden: true, onclick: () => shared.watching.goToNewRun() },
    t("timeline.newRun"),
  );
  viewer.element.append(newRun);
  for (const [name, value] of Object.entries({ ...writing(), "aria-label": t("panel.title") })) setAttribute(root, name, value);
  root.replaceChildren(
    element("div", { class: "ss-view" }, toolbar, tabs.element, viewer.element, playerBar.element, soundBar.element, grid.element, sheet.element),
    element("div", { class: "ss-side" }, noticeBar, timeline.element, curves.element, stats.element, controls.element, reportButton(document)),
  );

  viewer.onZoom = () => {
    fit.setAttribute("aria-pressed", String(viewer.zoom === null));
    exact.setAttribute("aria-pressed", String(viewer.zoom === 1));
    const percent = Math.round(viewer.scale * window.devicePixelRatio * 100);
    setText(zoomText, viewer.hasPicture && shared.watching.single ? leftToRight(`${percent} %`) : "");
  };

  function showNotice() {
    const told = notice(shared.status, shared.liveSettings, shared.watching.run);
    noticeKey = told?.key ?? "";
    noticeBar.hidden = !told || dismissed.has(noticeKey);
    noticeBar.classList.toggle("ss-mild", told?.mild ?? false);
    setText(noticeText, told?.text ?? "");
    noticeLink.hidden = !told?.link;
    if (told?.link) {
      noticeLink.href = told.link.url;
      setText(noticeLink, told.link.text);
    }
    return noticeText.textContent;
  }

  const zoomButtons = [fit, exact, ...zooms.querySelectorAll("button")];

  let asked = 0;
  function update() {
    asked = 0;
    if (signal.aborted) return;
    const { watching } = shared;
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    sheet.update();
    // The sheet's tiles ask for theirs as they come into view.
    const shown = watching.sheet ? [] : watching.grid ? shared.store.current : [watching.run];
    for (const run of shown) void shared.results.load(run);
    viewer.element.hidden = !watching.single;
    newRun.hidden = !watching.newRun;
    for (const button of zoomButtons) /** @type {HTMLButtonElement} */ (button).disabled = !watching.single;
    tabs.update();
    grid.update();
    playerBar.update();
    soundBar.update();
    stats.update();
    timeline.update();
    curves.update();
    controls.update();
    finish.update();
    setText(finished, finishedText(watching.run));
    viewer.onZoom();
    const said = showNotice();
    const { store, liveSettings } = shared;
    const { run } = timeline.progress;
    const waiting = liveSettings.silences(run) ? said : (run && waitingText(shared, run)) || t("viewer.waiting");
    setText(viewer.empty, store.live ? waiting : t("viewer.empty"));
    if (focused && !canHoldFocus(focused)) viewer.element.focus();
  }
  // The picture is updated at once, the text around it once per animation frame.
  function onChange() {
    viewer.update();
    asked ||= window.requestAnimationFrame(update);
  }

  shared.watching.addEventListener("change", onChange, { signal });
  shared.liveSettings.addEventListener("change", onChange, { signal });
  shared.queue.addEventListener("change", onChange, { signal });
  shared.status.addEventListener("change", onChange, { signal });
  shared.settings.addEventListener("change", onChange, { signal });
  function showFullScreen() {
    const inside = document.fullscreenElement === root;
    setIcon(fullScreen, inside ? "window-minimize" : "window-maximize", t(inside ? "viewer.leaveFullScreen" : "viewer.fullScreen"));
  }
  root.addEventListener("fullscreenchange", showFullScreen, { signal });
  shared.status.watch(signal);
  viewer.update();
  showFullScreen();
  update();

  function close() {
    closing.abort();
    soundPlayer.close();
    window.cancelAnimationFrame(asked);
  }
  return { viewer, close };
}

/** @param {Element} element that has the focus, unless what was shown has changed */
function canHoldFocus(element) {
  return element.getClientRects().length > 0 && !(/** @type {HTMLButtonElement} */ (element).disabled);
}
