/** A button for what cannot be undone: its first press asks, its second one does it. */

import { iconButton, setIcon, setText } from "./dom.js";

const ASKING_MS = 3000;

export class AskButton {
  /**
   * @param {import("./dom.js").ElementMaker} element
   * @param {string} icon a class of PrimeIcons, without `pi-`
   * @param {{ label: string, sure: string }} texts
   * @param {() => void} act
   */
  constructor(element, icon, texts, act) {
    this.icon = icon;
    this.texts = texts;
    this.act = act;
    this.asking = false;
    this._timer = 0;
    this.question = element("span");
    this.element = iconButton(element, icon, texts.label, () => this._press());
    this.element.append(this.question);
  }

  /** @param {boolean} on */
  ask(on) {
    clearTimeout(this._timer);
    this._timer = on ? setTimeout(() => this.ask(false), ASKING_MS) : 0;
    this.asking = on;
    const { label, sure } = this.texts;
    this.element.setAttribute("aria-pressed", String(on));
    setText(this.question, on ? sure : "");
    setIcon(this.element, this.icon, on ? sure : label);
  }

  _press() {
    const isSure = this.asking;
    this.ask(!isSure);
    if (isSure) this.act();
  }
}
