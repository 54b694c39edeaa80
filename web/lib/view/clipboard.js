/** Copies text. */

import { elementsOf } from "./dom.js";

/**
 * @param {HTMLElement} button in whose document it is done
 * @param {string} text
 * @returns {Promise<boolean>} whether it is on the clipboard
 */
export async function copied(button, text) {
  const document = button.ownerDocument;
  try {
    await document.defaultView?.navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine browsers offer no clipboard API.
    const area = elementsOf(document)("textarea", { readonly: true });
    area.value = text;
    button.after(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
