/** What the node 'Side-Stream Frames' says when it found no previews. */

import { listen, toast } from "../host/comfy.js";
import { t } from "../host/strings.js";

const REASONS = ["unknown", "empty", "late"];

/** Say why there are none, each time, even if the node's output came from ComfyUI's cache. */
export function tellOfMissingFrames() {
  listen("executed", ({ output }) => {
    const why = REASONS.find((reason) => output?.sidestream_frames?.includes(reason));
    if (why) toast("warn", t(`framesNode.${why}`));
  });
}
