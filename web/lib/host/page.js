/** What SideStream does to the document that it shares with the page and with other packs. */

/** @param {string} address of a style sheet for all of the page */
export function addStyleSheet(address) {
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: address });
  document.head.append(link);
}

/**
 * Tell style sheets that something is so.
 *
 * @param {string} name of a class of the page's root
 * @param {boolean} on
 */
export function markPage(name, on) {
  document.documentElement.classList.toggle(name, on);
}

/**
 * Hand style sheets a text.
 *
 * @param {string} property
 * @param {string} text
 */
export function setStyleText(property, text) {
  document.documentElement.style.setProperty(property, JSON.stringify(text));
}

/**
 * Hear of presses anywhere else, also of those that the page keeps to itself.
 *
 * @param {HTMLElement} element
 * @param {() => void} act
 * @param {AbortSignal} signal ends it
 */
export function onPressOutside(element, act, signal) {
  const onPress = (/** @type {Event} */ event) => {
    if (!event.composedPath().includes(element)) act();
  };
  element.ownerDocument.addEventListener("pointerdown", onPress, { capture: true, signal });
}
