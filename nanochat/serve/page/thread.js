// The list of messages: what is shown of a conversation, and where it is scrolled to.
// Promises: a change draws only what changed; the newest is followed until the reader scrolls up, and then not any more
// until the reader returns; what a command says stands below and is not kept. Not here: a single message (message.js).

import { path } from "./conversation.js";
import { announce, h } from "./dom.js";
import { MessageView } from "./message.js";

const NEAR = 32; // px from the end that still count as the end

export class Thread {
  constructor(elements, actions) {
    Object.assign(this, elements); // scroller, list, jump
    this.actions = { ...actions, drawn: () => this.follow() };
    this.views = new Map();
    this.following = true;
    this.top = 0;
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd(true));
    new ResizeObserver(() => this.follow()).observe(this.scroller);
  }

  /** Shows a conversation from its end. */
  open(conversation) {
    this.conversation = conversation;
    this.views.clear();
    this.list.replaceChildren();
    this.draw();
    this.toEnd();
  }

  draw() {
    const messages = path(this.conversation);
    const shown = new Set(messages.map(({ id }) => id));
    for (const [id, view] of this.views) {
      if (shown.has(id) && this.conversation.messages.get(id) === view.message) continue;
      view.element.remove();
      this.views.delete(id);
    }
    let before = null;
    for (const message of messages) {
      const view = this.views.get(message.id) ?? new MessageView(this.conversation, message, this.actions);
      if (this.views.has(message.id)) view.draw();
      this.views.set(message.id, view);
      const next = before ? before.nextSibling : this.list.firstChild;
      if (next !== view.element) this.list.insertBefore(view.element, next);
      before = view.element;
    }
    this.follow();
  }

  /** A message grew. */
  grew(message) {
    const view = this.views.get(message.id);
    if (view) view.drawSoon();
    else this.draw();
  }

  /** Says something below the messages; gone with the next thing that is sent. */
  say(lines) {
    this.hush();
    const said = h(
      "div",
      { class: "said" },
      ...lines.map((line) => (typeof line === "string" ? h("p", { text: line }) : line)),
    );
    this.list.append(said);
    this.toEnd();
    said.scrollIntoView({ block: said.offsetHeight > this.scroller.clientHeight ? "start" : "end" });
    announce(said.innerText);
  }

  hush() {
    for (const said of this.list.querySelectorAll(".said")) said.remove();
  }

  view(message) {
    return this.views.get(message.id);
  }

  get distance() {
    return this.scroller.scrollHeight - this.scroller.clientHeight - this.scroller.scrollTop;
  }

  scrolled() {
    if (this.distance <= NEAR) this.following = true;
    else if (this.scroller.scrollTop < this.top) this.following = false;
    this.top = this.scroller.scrollTop;
    this.showJump();
  }

  showJump() {
    this.jump.hidden = this.following || this.distance <= NEAR;
  }

  follow() {
    if (this.following) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.top = this.scroller.scrollTop;
    this.showJump();
  }

  toEnd(focus = false) {
    this.following = true;
    this.follow();
    if (focus) this.actions.focus();
  }
}
