// One message as it is shown: its text, what can be done with it, and how it came about.
// Promises: a question is shown as it was written, an answer as Markdown; a streaming answer is drawn at most once a
// frame; the same object is kept while its message grows. Not here: the list of them (thread.js), what the buttons do.

import { ABANDONED, abandoned, plainText, versions } from "./conversation.js";
import { copyButton, counted, duration, h, icon, iconButton, unseen } from "./dom.js";
import { Markdown } from "./markdown.js";

export class MessageView {
  /** `actions`: owns, edit, regenerate, choose, stop, raise. */
  constructor(conversation, message, actions) {
    Object.assign(this, { conversation, message, actions });
    this.body = message.role === "user" ? h("div", { class: "bubble", dir: "auto" }) : new Markdown();
    this.notes = h("div", { class: "notes" });
    this.foot = h("div", { class: "foot" });
    this.element = h(
      "article",
      { class: `message ${message.role}`, "data-id": message.id },
      h("h2", { class: "unseen", text: message.role === "user" ? "You" : "nanochat" }),
      this.body.element ?? this.body,
      this.notes,
      this.foot,
    );
    this.frame = 0;
    this.draw();
  }

  /** Draws what is new with the next frame. */
  drawSoon() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
      this.actions.drawn();
    });
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { message } = this;
    if (message.role === "user") this.body.textContent = plainText(message.parts);
    else this.body.show(message.parts);
    const streaming = message.state === "streaming" && (this.actions.owns(message) || !abandoned(message));
    if (streaming && !this.actions.owns(message)) setTimeout(() => this.draw(), ABANDONED + 1000); // is its tab gone?
    this.element.classList.toggle("streaming", streaming);
    this.element.setAttribute("aria-busy", streaming);
    const key = JSON.stringify([
      message.state,
      message.parts.length > 0,
      message.waitUntil,
      streaming,
      versions(this.conversation, message).map(({ id }) => id),
    ]);
    if (key === this.drawn) return; // the buttons stay where the focus may be
    this.drawn = key;
    const held = this.foot.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.notes.replaceChildren(...(message.role === "assistant" ? this.noteElements(streaming) : []));
    this.foot.replaceChildren(...this.footElements(streaming));
    if (held) this.foot.querySelector(`[aria-label="${CSS.escape(held)}"]`)?.focus();
  }

  noteElements(streaming) {
    const { message, actions } = this;
    if (streaming && message.waitUntil) return [waiting(message, actions)];
    if (streaming)
      return message.parts.length
        ? []
        : [h("p", { class: "thinking" }, unseen("Waiting for the answer"), h("i"), h("i"), h("i"))];
    const notes = [];
    if (message.state === "failed") notes.push(this.trouble(message.error ?? "Something went wrong."));
    if (["interrupted", "streaming"].includes(message.state))
      notes.push(this.trouble("The page was left before the answer was whole."));
    if (message.state === "stopped" && !message.parts.length)
      notes.push(h("p", { class: "note", text: "Stopped before the first word." }));
    if (message.state === "done" && !message.parts.length)
      notes.push(h("p", { class: "note", text: "The model said nothing." }));
    if (message.finish === "length") notes.push(this.cutOff());
    if (message.forgotten > 0) {
      const turns = message.forgotten === 1 ? "turn was" : "turns were";
      notes.push(
        h("p", {
          class: "note forgotten",
          text: `The conversation is longer than the model reads: its first ${message.forgotten} ${turns} left out.`,
        }),
      );
    }
    return notes;
  }

  trouble(words) {
    const again = h(
      "button",
      { type: "button", class: "small", on: { click: () => this.actions.regenerate(this.message) } },
      icon("again"),
      "Try again",
    );
    return h("div", { class: "trouble" }, icon("warning"), h("p", { text: words }), again);
  }

  cutOff() {
    const { limit } = this.message;
    const words = limit
      ? `Cut off at your limit of ${counted(limit, "token")}.`
      : "Cut off: the model's context or the server's limit is reached.";
    const raise = h("button", {
      type: "button",
      class: "link",
      text: "Change the limit",
      on: { click: () => this.actions.raise() },
    });
    return h("p", { class: "note" }, `${words} `, ...(limit ? [raise] : []));
  }

  footElements(streaming) {
    const { message, actions } = this;
    if (streaming) return [];
    const buttons = [];
    const copy = message.role === "user" ? "Copy your message" : "Copy the answer";
    if (message.parts.length) buttons.push(copyButton(copy, () => plainText(message.parts).trim()));
    if (message.role === "user") buttons.push(iconButton("pencil", "Edit and send again", () => actions.edit(message)));
    else if (["done", "stopped"].includes(message.state))
      buttons.push(iconButton("again", "Answer again", () => actions.regenerate(message)));
    return [
      ...this.pager(),
      ...buttons,
      ...(message.role === "assistant" && message.parts.length ? [this.facts()] : []),
    ];
  }

  /** ‹ 1/2 › where there are several versions. */
  pager() {
    const all = versions(this.conversation, this.message);
    if (all.length < 2) return [];
    const at = all.indexOf(this.message);
    const what = this.message.role === "user" ? "question" : "answer";
    const go = (name, label, to) => iconButton(name, label, () => this.actions.choose(all[to]), { disabled: !all[to] });
    return [
      h(
        "span",
        { class: "pager", role: "group", "aria-label": `Versions of the ${what}` },
        go("left", `Earlier ${what}`, at - 1),
        h("span", { class: "count" }, unseen("version "), `${at + 1}/${all.length}`),
        go("right", `Later ${what}`, at + 1),
      ),
    ];
  }

  facts() {
    const { message } = this;
    const facts = [];
    if (message.state === "stopped") facts.push("stopped");
    if (message.tokens) facts.push(counted(message.tokens, "token"));
    if (message.rate) facts.push(`${message.rate < 10 ? message.rate.toFixed(1) : Math.round(message.rate)} tokens/s`);
    if (message.seconds) facts.push(duration(message.seconds));
    return h("span", {
      class: "facts",
      title: message.model ? `Model ${message.model}` : null,
      text: facts.join(" · "),
    });
  }

  /** Puts a form in place of a question's text; `send(text)` when it is sent. */
  edit(send) {
    const area = h("textarea", { "aria-label": "Your message", rows: 1 });
    area.value = plainText(this.message.parts);
    const close = () => {
      form.remove();
      this.element.classList.remove("editing");
      this.element.querySelector('[aria-label="Edit and send again"]')?.focus();
    };
    const submit = (event) => {
      event?.preventDefault();
      if (!area.value.trim()) return;
      close();
      send(area.value.trim());
    };
    const form = h(
      "form",
      { class: "edit", on: { submit } },
      area,
      h("p", { class: "note", text: "This begins a second version; the first one stays." }),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "small", text: "Cancel", on: { click: close } }),
        h("button", { class: "small primary", text: "Send" }),
      ),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === area) submit(event);
    });
    this.element.classList.add("editing");
    this.body.after(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** A busy server: how long, and a way out. Counts down by itself. */
function waiting(message, actions) {
  const words = h("p");
  const note = h(
    "div",
    { class: "trouble calm" },
    icon("clock"),
    words,
    h("button", { type: "button", class: "small", text: "Cancel", on: { click: () => actions.stop() } }),
  );
  const tick = () => {
    const left = Math.ceil((message.waitUntil - Date.now()) / 1000);
    words.textContent =
      left > 0 ? `The server is busy. Trying again in ${left} s.` : "The server is busy. Trying again now.";
    if (left > 0 && (note.isConnected || !tick.shown)) setTimeout(tick, 1000);
    tick.shown = true;
  };
  tick();
  return note;
}
