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
 * @template {keyof SVGElementTagNameMap} K
 * @param {Document} document
 * @param {K} tag
 * @param {Record<string, string>} [attributes]
 * @param {...Node} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(document, tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

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
 * A part that is closed until it is opened; the browser remembers that.
 *
 * @param {ElementMaker} element
 * @param {string} name by which it is remembered; its class is `ss-` and that
 * @param {() => void} toggled
 * @param {(Node | string)[]} summary
 * @param {...Node} children
 */
export function fold(element, name, toggled, summary, ...children) {
  const key = `SideStream.${name}`;
  const ontoggle = () => {
    if (details.open) localStorage.setItem(key, "open");
    else localStorage.removeItem(key);
    toggled();
  };
  const details = element(
    "details",
    { class: `ss-${name}`, open: localStorage.getItem(key) !== null, ontoggle },
    element("summary", { onkeydown: keepFromPage }, ...summary),
    ...children,
  );
  return details;
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
 * The same for an attribute.
 *
 * @param {Element} element
 * @param {string} name
 * @param {string} value
 */
export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * Keep a control's keys from the page's key bindings, but for the one that closes a dialog which it is in.
 *
 * @param {KeyboardEvent} event
 */
export function keepFromPage(event) {
  const { key, target } = event;
  if (key !== "Escape" || !(/** @type {Element} */ (target).closest("[role=dialog]"))) event.stopPropagation();
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
