// The field at the bottom: it grows with its text, sends with Enter, and lists the commands after a /.
// Promises: what is typed is never lost but by sending it, and each conversation keeps its own; a key that an input
// method composes with does nothing here; the list is a listbox to screen readers. Not here: what becomes of the text.

import { announce, counted, h } from "./dom.js";

const DRAFT = "nanochat.draft.";

export class Composer {
  /** `actions`: send(text) -> taken?, stop, editLast. */
  constructor(elements, commands, actions) {
    Object.assign(this, elements, { commands, actions }); // form, area, button, list
    this.running = false;
    this.at = -1;
    this.conversation = "";
    this.area.addEventListener("input", () => this.changed());
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("blur", () => this.hide());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.button.addEventListener("click", (event) => {
      if (!this.running) return;
      event.preventDefault();
      this.actions.stop();
    });
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.form.addEventListener("pointerdown", (event) => {
      if (event.target !== this.form) return;
      event.preventDefault();
      this.focus(true);
    });
  }

  /** Shows what was being written in a conversation. */
  open(conversation) {
    this.conversation = conversation.id;
    this.set(draft(this.conversation));
  }

  set(text) {
    this.area.value = text;
    this.changed();
  }

  /** Not where a finger types, unless it must be: the keyboard would cover what is there to be read. */
  focus(always = false) {
    if (always || !matchMedia("(pointer: coarse)").matches) this.area.focus({ preventScroll: true });
  }

  /** An answer comes or has ended: the button stops it, or sends. */
  setRunning(running) {
    this.running = running;
    this.showButton();
  }

  showButton() {
    const label = this.running ? "Stop the answer" : "Send";
    this.button.setAttribute("aria-label", label);
    this.button.title = this.running ? "Stop (Esc)" : "Send (Enter)";
    this.button.classList.toggle("stop", this.running);
    this.button.querySelector("use").setAttribute("href", this.running ? "#i-stop" : "#i-send");
    this.button.disabled = !this.running && !this.area.value.trim();
  }

  changed() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
    keep(this.conversation, this.area.value);
    this.showButton();
    this.suggest();
  }

  submit() {
    const text = this.area.value;
    if (!text.trim()) return;
    if (!this.actions.send(text)) return;
    if (this.area.value === text) this.set("");
  }

  key(event) {
    if (event.isComposing || event.keyCode === 229) return;
    if (!this.list.hidden && this.listKey(event)) event.preventDefault();
    else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "ArrowUp" && !this.area.value && this.actions.editLast()) event.preventDefault();
  }

  listKey({ key, shiftKey }) {
    const options = this.list.children;
    if (key === "ArrowDown" || key === "ArrowUp")
      this.mark((this.at + (key === "ArrowDown" ? 1 : -1) + options.length) % options.length);
    else if (key === "Escape") this.hide();
    else if ((key === "Tab" || key === "Enter") && !shiftKey) this.take(this.shown[this.at], key === "Enter");
    else return false;
    return true;
  }

  /** The commands that begin with what is typed. */
  suggest() {
    const typed = /^\/(\S*)$/.exec(this.area.value)?.[1].toLowerCase();
    this.shown = typed === undefined ? [] : this.commands.filter(({ name }) => name.startsWith(typed));
    if (!this.shown.length) return this.hide();
    this.list.replaceChildren(...this.shown.map((command, index) => this.option(command, index)));
    if (this.list.hidden) announce(`${counted(this.shown.length, "command")}, with the arrow keys`);
    this.list.hidden = false;
    this.mark(0);
  }

  option(command, index) {
    const { name, takes, does } = command;
    return h(
      "li",
      {
        role: "option",
        id: `command-${index}`,
        "aria-selected": "false",
        on: { click: () => this.take(command, true) },
      },
      h("code", { text: `/${name}` }),
      h("span", { class: "takes", text: takes ?? "" }),
      h("span", { class: "does", text: does }),
    );
  }

  mark(index) {
    this.list.children[this.at]?.setAttribute("aria-selected", "false");
    this.at = index;
    const option = this.list.children[index];
    option.setAttribute("aria-selected", "true");
    option.scrollIntoView({ block: "nearest" });
    this.area.setAttribute("aria-activedescendant", option.id);
  }

  /** Completes a command; one that takes nothing runs at once. */
  take(command, run) {
    const whole = this.area.value.toLowerCase() === `/${command.name}`;
    this.set(command.takes && !(whole && run) ? `/${command.name} ` : `/${command.name}`);
    this.hide();
    if (run && (whole || !command.takes)) this.submit();
  }

  hide() {
    this.list.hidden = true;
    this.at = -1;
    this.area.removeAttribute("aria-activedescendant");
  }
}

function draft(id) {
  try {
    return sessionStorage.getItem(DRAFT + id) ?? "";
  } catch {
    return "";
  }
}

function keep(id, text) {
  try {
    if (text) sessionStorage.setItem(DRAFT + id, text);
    else sessionStorage.removeItem(DRAFT + id);
  } catch {
    // it stays in the field
  }
}
