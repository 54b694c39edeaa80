/** Copies the server's report on itself: a text to post when asking for help. */

import { api, get, toast } from "../host/comfy.js";
import { copied } from "./clipboard.js";
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
  return element(
    "button",
    { type: "button", class: "ss-icon-button ss-report", title: t("report.tooltip"), onclick: (/** @type {Event} */ event) => void copyReport(event) },
    element("i", { class: "pi pi-copy", "aria-hidden": "true" }),
    t("report.label"),
  );
}

/** @param {Event} event of the button */
async function copyReport({ currentTarget }) {
  const button = /** @type {HTMLElement} */ (currentTarget);
  let text;
  try {
    text = await (await get(ROUTE)).text();
  } catch {
    toast("error", t("report.unreachable"));
    return;
  }
  if (await copied(button, text)) toast("success", t("report.copied"));
  else toast("error", t("report.blocked", { address: api.apiURL(ROUTE) }));
}
