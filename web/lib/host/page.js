/** What SideStream changes in, or hears from, the document that it shares with other packs. */

/** @param {string} address of a style sheet for all of the page */
export function addStyleSheet(address) {
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: address });
  document.head.append(link);
}

/**
 * Set or remove a class for style sheets.
 *
 * @param {string} name of a class of the page's root
 * @param {boolean} on
 */
export function markPage(name, on) {
  document.documentElement.classList.toggle(name, on);
}

/**
 * Set a text that style sheets show.
 *
 * @param {string} property
 * @param {string} text
 */
export function setStyleText(property, text) {
  document.documentElement.style.setProperty(property, JSON.stringify(text));
}

/**
 * Call `act` on every press outside of an element, even if the page stops the event.
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
