// The conversations at the side, a drawer on a phone: open, rename, delete.
// Promises: keys do all of it (F2, Delete, arrows); the list keeps the focus when it is drawn again; on a phone the
// rest of the page is out of reach while it is open. Not here: the conversations themselves (store.js).

import { titleOf } from "./conversation.js";
import { h, iconButton, narrow } from "./dom.js";

const AGES = [
  ["Today", 0],
  ["Yesterday", 1],
  ["This week", 7],
  ["This month", 31],
  ["Earlier", Infinity],
];
const SWIPE = 60; // px of a finger's way to the side

export class Sidebar {
  /** `page` is app.js's: store, settings, conversation, answers, openId, rename, remove. */
  constructor(elements, page) {
    Object.assign(this, elements, { page }); // bar, list, main, shade, toggles
    this.shown = false;
    for (const toggle of this.toggles) toggle.addEventListener("click", () => this.toggle());
    this.shade.addEventListener("click", () => this.toggle(false));
    this.bar.addEventListener("keydown", (event) => this.key(event));
    matchMedia("(max-width: 760px)").addEventListener("change", () => this.place(false));
    this.swipes();
    this.place(false);
  }

  get open() {
    return narrow() ? this.shown : this.page.settings.values.sidebar;
  }

  toggle(open = !this.open) {
    if (open === this.open) return;
    if (narrow()) this.shown = open;
    else this.page.settings.set("sidebar", open);
    this.place(true);
  }

  /** Shows or hides it, and puts the focus where a person goes on. */
  place(focus) {
    const phone = narrow();
    document.body.classList.toggle("with-sidebar", this.open);
    this.bar.inert = !this.open;
    this.main.inert = phone && this.open;
    for (const toggle of this.toggles) toggle.setAttribute("aria-expanded", this.open);
    if (!focus) return;
    const next = this.open ? this.bar.querySelector("button") : this.main.querySelector("[data-sidebar]");
    next?.focus();
  }

  draw() {
    const focused = this.bar.contains(document.activeElement)
      ? document.activeElement.closest("[data-id]")?.dataset.id
      : null;
    if (this.list.querySelector("input")) return; // a name is being written
    const groups = new Map();
    for (const conversation of this.page.store.list()) {
      const age = ageOf(conversation.updated);
      groups.set(age, [...(groups.get(age) ?? []), this.item(conversation)]);
    }
    const elements = [...groups].map(([age, items]) => h("section", {}, h("h3", { text: age }), h("ul", {}, ...items)));
    this.list.replaceChildren(
      ...(elements.length
        ? elements
        : [h("p", { class: "hint", text: "Conversations stay in this browser and appear here." })]),
    );
    if (focused) this.list.querySelector(`[data-id="${focused}"] .title`)?.focus();
  }

  item(conversation) {
    const { page } = this;
    const title = titleOf(conversation);
    const current = conversation.id === page.conversation?.id;
    const running = page.answers.isRunning(conversation);
    return h(
      "li",
      { "data-id": conversation.id, class: current ? "current" : null },
      h(
        "button",
        {
          type: "button",
          class: "title",
          "aria-current": current ? "true" : null,
          on: { click: () => this.choose(conversation) },
        },
        running ? h("span", { class: "running", title: "Answering" }) : null,
        h("span", { text: title, dir: "auto" }),
      ),
      h(
        "span",
        { class: "tools" },
        iconButton("pencil", `Rename “${title}”`, () => this.rename(conversation)),
        iconButton("trash", `Delete “${title}”`, () => page.remove(conversation)),
      ),
    );
  }

  choose(conversation) {
    this.page.openId(conversation.id);
    if (narrow()) this.toggle(false);
  }

  /** A field in place of the title. */
  rename(conversation) {
    const item = this.list.querySelector(`[data-id="${conversation.id}"]`);
    if (!item) return;
    const input = h("input", {
      type: "text",
      value: titleOf(conversation),
      "aria-label": "Name of the conversation",
      maxlength: 200,
    });
    let over = false;
    const end = (keep, focus) => {
      if (over) return;
      over = true;
      const name = input.value.trim();
      item.classList.remove("renaming");
      input.remove();
      if (keep && name) this.page.rename(conversation, name);
      this.draw();
      if (focus) this.list.querySelector(`[data-id="${conversation.id}"] .title`)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (!["Enter", "Escape"].includes(event.key) || event.isComposing) return;
      event.preventDefault(); // or Enter presses the button that takes the focus
      end(event.key === "Enter", true);
    });
    input.addEventListener("blur", () => end(true, false));
    item.classList.add("renaming");
    item.append(input);
    input.select();
  }

  key(event) {
    const item = event.target.closest?.("[data-id]");
    const conversation = item && this.page.store.conversations.get(item.dataset.id);
    if (event.key === "Escape" && narrow()) this.toggle(false);
    else if (!conversation) return;
    else if (event.key === "F2") this.rename(conversation);
    else if (event.key === "Delete") this.page.remove(conversation);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") this.step(item, event.key === "ArrowDown" ? 1 : -1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  step(item, by) {
    const titles = [...this.list.querySelectorAll(".title")];
    titles[titles.indexOf(item.querySelector(".title")) + by]?.focus();
  }

  /** From the left edge to the right opens it, to the left closes it. */
  swipes() {
    let start = null;
    addEventListener(
      "touchstart",
      ({ touches: [touch] }) => {
        const reaches = narrow() && (this.open || touch.clientX < 28);
        start = reaches ? { x: touch.clientX, y: touch.clientY } : null;
      },
      { passive: true },
    );
    addEventListener(
      "touchend",
      ({ changedTouches: [touch] }) => {
        if (!start) return;
        const [across, down] = [touch.clientX - start.x, Math.abs(touch.clientY - start.y)];
        if (Math.abs(across) > SWIPE && Math.abs(across) > 2 * down) this.toggle(across > 0);
        start = null;
      },
      { passive: true },
    );
  }
}

function ageOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const days = time >= midnight ? 0 : Math.ceil((midnight - time) / 86_400_000);
  return AGES.find(([, most]) => days <= most)[0];
}
