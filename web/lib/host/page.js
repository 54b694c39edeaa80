/** What SideStream changes in, or hears from, the document that it shares with other packs. */

/**
 * Each rule of it has to name a class of the pack's own.
 *
 * @param {Document} page
 * @param {string} address of a style sheet for all of the page
 */
export function addStyleSheet(page, address) {
  const link = Object.assign(page.createElement("link"), { rel: "stylesheet", href: address });
  page.head.append(link);
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
 * Let the browser remember a text, or forget it. Its storage may be full, as workflows are kept there, too:
 * then it is forgotten with the page.
 *
 * @param {string} key
 * @param {string | null} text
 */
export function remember(key, text) {
  try {
    if (text === null) localStorage.removeItem(key);
    else localStorage.setItem(key, text);
  } catch (error) {
    console.info(`[SideStream] The browser could not remember ${key}.`, error);
  }
}
