/** The panel in a window that stays on top, or in a plain one if the browser has no such windows. */

import { toast } from "../host/comfy.js";
import { onLanguage, t } from "../host/strings.js";

const SIZE = { width: 480, height: 720 };

/**
 * @param {(container: HTMLElement) => () => void} fill puts a panel into a container
 * @returns {() => Promise<void>} opens the window, or closes it
 */
export function popOutOf(fill) {
  /** @type {Window | null} */
  let opened = null;

  return async () => {
    if (opened && !opened.closed) {
      opened.close();
      return;
    }
    const made = await openWindow();
    if (!made) return toast("error", t("viewer.popOutBlocked"));
    opened = made;
    dress(made.document);
    const close = fill(made.document.body);
    const theme = new MutationObserver(() => copyLooks(made.document));
    for (const part of [document.documentElement, document.body]) theme.observe(part, { attributes: true });
    const leave = () => made.close();
    const gone = new AbortController();
    onLanguage(() => (made.document.title = t("panel.title")), gone.signal);
    window.addEventListener("pagehide", leave, { signal: gone.signal });
    made.addEventListener("pagehide", () => {
      gone.abort();
      theme.disconnect();
      close();
      if (opened === made) opened = null;
    });
  };
}

async function openWindow() {
  /** @type {any} */
  const onTop = /** @type {any} */ (window).documentPictureInPicture;
  if (onTop) {
    try {
      return /** @type {Window} */ (await onTop.requestWindow(SIZE));
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
    }
  }
  return window.open("", "sidestream", `popup,width=${SIZE.width},height=${SIZE.height}`);
}

/**
 * Copy the page's styles to an empty document.
 *
 * @param {Document} target
 */
function dress(target) {
  target.head.replaceChildren();
  target.body.replaceChildren();
  target.title = t("panel.title");
  for (const sheet of document.querySelectorAll('link[rel="stylesheet"], style')) {
    const copy = /** @type {HTMLElement} */ (target.importNode(sheet, true));
    // The empty document has another base address.
    if (sheet instanceof HTMLLinkElement) copy.setAttribute("href", sheet.href);
    target.head.append(copy);
  }
  copyLooks(target);
}

/**
 * The theme is in the attributes of the page's root and body.
 *
 * @param {Document} target
 */
function copyLooks(target) {
  for (const part of /** @type {const} */ (["documentElement", "body"])) {
    for (const name of ["class", "style", "lang"]) {
      const value = document[part].getAttribute(name);
      if (value !== null) target[part].setAttribute(name, value);
      else target[part].removeAttribute(name);
    }
  }
  target.body.classList.add("ss-window", "ss-host");
}
