import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

/** Makes ComfyUI's page accept the pack's JSON events. */
const ignore = () => {};

app.registerExtension({
  name: "SideStream",
  init() {
    api.addEventListener("sidestream.frame", ignore);
    api.addEventListener("sidestream.run", ignore);
  },
});
