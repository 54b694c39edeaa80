/** The server's report on itself, for the clipboard: a text to post where one asks for help. */

import { api, toast } from "../host/comfy.js";
import { elementsOf } from "./dom.js";
import { t } from "../host/strings.js";

const ROUTE = "/sidestream/report";

/**
 * A button that copies the report.
 *
 * @param {Document} document where it is shown
 */
export function reportButton(document) {
  const element = elementsOf(document);
  const button = element(
    "button",
    { type: "button", class: "ss-icon-button ss-report", title: t("report.tooltip"), onclick: () => void copyReport(button) },
    element("i", { class: "pi pi-copy", "aria-hidden": "true" }),
    t("report.label"),
  );
  return button;
}

/** @param {HTMLElement} button */
async function copyReport(button) {
  let text;
  try {
    const response = await api.fetchApi(ROUTE, { cache: "no-store" });
    if (!response.ok) throw new Error(`${ROUTE}: ${response.status}`);
    text = await response.text();
  } catch {
    toast("error", t("report.unreachable"));
    return;
  }
  if (await put(button, text)) toast("success", t("report.copied"));
  else toast("error", t("report.blocked", { address: api.apiURL(ROUTE) }));
}

/**
 * @param {HTMLElement} button
 * @param {string} text
 * @returns {Promise<boolean>} whether it is on the clipboard
 */
async function put(button, text) {
  const document = button.ownerDocument;
  try {
    await document.defaultView?.navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard for a page that came over plain HTTP from another machine.
    const area = elementsOf(document)("textarea", { readonly: true });
    area.value = text;
    button.after(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
