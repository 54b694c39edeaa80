/** Creates elements in one expression, in any document: panels also live in pop-out windows. */

/**
 * @typedef {Record<string, string | number | boolean | ((event: any) => void) | null | undefined>} Props
 *   Attributes by name; `onclick` and the like take a listener; true is an empty attribute; false,
 *   null and undefined leave it out.
 */

/**
 * @param {Document} document
 * @returns a function that makes elements in it
 */
export function elementsOf(document) {
  /**
   * @template {keyof HTMLElementTagNameMap} K
   * @param {K} tag
   * @param {Props} [props]
   * @param {(Node | string | null)[]} children
   * @returns {HTMLElementTagNameMap[K]}
   */
  return function element(tag, props = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (typeof value === "function") made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value != null) made.setAttribute(name, String(value));
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  };
}

/** @typedef {ReturnType<typeof elementsOf>} ElementMaker */

/**
 * A button that shows an icon; its label is its tooltip and its name for screen readers.
 *
 * @param {ElementMaker} element
 * @param {string} icon a class of PrimeIcons, without `pi-`
 * @param {string} label
 * @param {() => void} act
 * @param {Props} [props]
 */
export function iconButton(element, icon, label, act, props = {}) {
  const icons = element("i", { class: `pi pi-${icon}`, "aria-hidden": "true" });
  return element(
    "button",
    { type: "button", class: "ss-icon-button", title: label, "aria-label": label, onclick: act, ...props },
    icons,
  );
}

/**
 * Change an icon button's icon and label.
 *
 * @param {HTMLButtonElement} button
 * @param {string} icon
 * @param {string} label
 */
export function setIcon(button, icon, label) {
  if (button.title === label) return;
  button.title = label;
  button.setAttribute("aria-label", label);
  /** @type {HTMLElement} */ (button.firstElementChild).className = `pi pi-${icon}`;
}

/**
 * Write text only if it changed, so that an idle panel touches nothing.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Keep a control's keys from the page's key bindings.
 *
 * @param {KeyboardEvent} event
 */
export function keepFromPage(event) {
  event.stopPropagation();
}

/**
 * Call `act` when the signal aborts.
 *
 * @param {AbortSignal} signal
 * @param {() => void} act
 */
export function whenEnded(signal, act) {
  signal.addEventListener("abort", act, { once: true });
}
