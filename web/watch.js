/**
 * The script of watch.html. ComfyUI's page loads all scripts of a pack, so this one too: it does nothing
 * there.
 */

import { openWatchPage } from "./lib/view/watch_page.js";

if (document.documentElement.classList.contains("sidestream-watch")) void openWatchPage(window);
