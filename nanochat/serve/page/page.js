// What can be done on the page: send, stop, answer again, edit, open, rename, delete, export; and what follows on it.
// Promises: the address names the open conversation, so that reloading, going back and a second tab find it; whatever
// a person deletes can be had back for a while. Not here: keys and the first drawing (app.js).

import { Answers } from "./answers.js";
import { commandsOf, runCommand } from "./commands.js";
import { Composer } from "./composer.js";
import * as conversations from "./conversation.js";
import { announce, counted, narrow } from "./dom.js";
import { askKey, confirmed, toast } from "./notices.js";
import { Panel } from "./panel.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { models, setKey } from "./stream.js";
import { Thread } from "./thread.js";
import { asJson, asMarkdown, download, fileName, fromFile } from "./transfer.js";

const element = (id) => document.getElementById(id);
const LONGEST_READ = 600; // characters of an answer that are read out by themselves

export class Page {
  constructor() {
    this.models = [];
    this.settings = new Settings();
    this.store = new Store({
      changed: (id) => this.changedElsewhere(id),
      trouble: (words) => setTimeout(() => toast(words)),
    });
    this.answers = new Answers({
      store: this.store,
      settings: this.settings,
      model: () => this.modelName(),
      askKey: (reason) => this.askKey(reason),
      changed: (conversation, message) => this.grew(conversation, message),
      ended: (conversation, message) => this.ended(conversation, message),
    });
    this.thread = new Thread(
      { scroller: element("scroller"), list: element("thread"), jump: element("jump") },
      {
        owns: (message) => this.answers.owns(message),
        edit: (message) => this.edit(message),
        regenerate: (message) => this.regenerate(message),
        choose: (message) => this.choose(message),
        stop: () => this.stop(),
        raise: () => this.openSettings("max_tokens"),
        focus: () => this.composer.focus(),
      },
    );
    this.composer = new Composer(
      { form: element("composer"), area: element("field"), button: element("send"), list: element("commands") },
      commandsOf(this),
      {
        send: (text) => this.send(text),
        stop: () => this.stop(),
        editLast: () => this.editLast(),
      },
    );
    this.sidebar = new Sidebar(
      {
        bar: element("sidebar"),
        list: element("conversations"),
        main: element("main"),
        shade: element("shade"),
        toggles: document.querySelectorAll("[data-sidebar]"),
      },
      this,
    );
    this.panel = new Panel(element("settings"), this);
  }

  // The server

  async loadModels() {
    try {
      this.models = await models();
    } catch (error) {
      if (error.status === 401 && (await this.askKey(error.message))) return this.loadModels();
      this.models = [];
      if (error.status === 503) setTimeout(() => this.loadModels(), 1000 * (error.retryAfter ?? 3));
      this.trouble = error.status === 503 ? "loading…" : error.status === 401 ? "needs a key" : "not reached";
    }
    this.drawModel();
    return undefined;
  }

  async askKey(reason) {
    const key = await askKey(reason);
    if (key) setKey(key);
    return key;
  }

  card() {
    return this.models.find(({ id }) => id === this.settings.values.model) ?? this.models[0] ?? null;
  }

  modelName() {
    return this.card()?.id ?? "";
  }

  drawModel() {
    const card = this.card();
    element("model-name").textContent = card?.id ?? this.trouble ?? "…";
    element("about").textContent = card?.description || "A small language model, trained from raw text.";
    this.drawContext();
    this.panel.show();
  }

  // Conversations

  /** Opens what the address names, or a new one. */
  openAddressed() {
    const id = location.hash.slice(1);
    this.show(this.store.conversations.get(id) ?? conversations.create());
  }

  openId(id) {
    const conversation = this.store.conversations.get(id);
    if (!conversation || conversation === this.conversation) return;
    history.pushState(null, "", `#${id}`);
    this.show(conversation);
    if (!narrow()) this.composer.focus();
  }

  /** Begins another conversation. */
  begin() {
    if (this.conversation.messages.size) {
      history.pushState(null, "", "#");
      this.show(conversations.create());
    }
    if (narrow()) this.sidebar.toggle(false);
    this.composer.focus();
  }

  show(conversation) {
    this.conversation = conversation;
    this.thread.open(conversation);
    this.composer.open(conversation);
    this.draw();
  }

  draw() {
    const { conversation } = this;
    const title = conversations.titleOf(conversation);
    document.body.classList.toggle("is-empty", !conversation.messages.size);
    element("title").textContent = title;
    element("more").hidden = !conversation.messages.size;
    document.title = conversation.messages.size ? `${title} · nanochat` : "nanochat";
    this.composer.setRunning(this.answers.isRunning(conversation));
    this.drawContext();
    this.sidebar.draw();
  }

  drawContext() {
    const last = this.conversation && conversations.path(this.conversation).findLast(({ total }) => total);
    const context = this.card()?.context;
    element("context").textContent = last && context ? `${last.total} of ${counted(context, "token")}` : "";
    element("context").title = "How much of the model's memory the conversation takes";
  }

  changedElsewhere(id) {
    if (id !== this.conversation?.id) return this.sidebar.draw();
    if (this.store.conversations.has(id)) {
      this.thread.draw();
      this.draw();
    } else {
      const { conversation } = this;
      this.answers.stop(conversation);
      toast("This conversation was deleted in another tab.", ["Undo", () => this.restore([conversation])]);
      history.replaceState(null, "", "#");
      this.show(conversations.create());
    }
    return undefined;
  }

  rename(conversation, title) {
    conversation.title = title.slice(0, 200);
    conversations.touch(conversation);
    this.store.save(conversation);
    this.draw();
  }

  remove(conversation) {
    if (!conversation.messages.size) return;
    const title = conversations.titleOf(conversation);
    this.answers.stop(conversation);
    this.store.remove(conversation.id);
    if (conversation === this.conversation) {
      history.replaceState(null, "", "#");
      this.show(conversations.create());
      this.composer.focus();
    }
    this.sidebar.draw();
    toast(`Deleted “${conversations.shortened(title, 40)}”.`, ["Undo", () => this.restore([conversation])]);
  }

  async removeAll() {
    const all = this.store.list();
    if (!all.length) return toast("There is no conversation to delete.");
    const title = `Delete ${all.length === 1 ? "the conversation" : `all ${all.length} conversations`}?`;
    if (
      !(await confirmed(
        title,
        "They are only in this browser. Export them first if you may want them again.",
        "Delete all",
      ))
    )
      return undefined;
    for (const conversation of all) {
      this.answers.stop(conversation);
      this.store.remove(conversation.id);
    }
    history.replaceState(null, "", "#");
    this.show(conversations.create());
    this.panel.show();
    return toast(`Deleted ${counted(all.length, "conversation")}.`, ["Undo", () => this.restore(all)]);
  }

  restore(all) {
    for (const conversation of all) this.store.save(conversation);
    if (all.length === 1) this.openId(all[0].id);
    this.sidebar.draw();
    this.panel.show();
  }

  /** Saves the conversation as a file; false where there is nothing in it. */
  export(kind) {
    const { conversation } = this;
    if (!conversation.messages.size) return false;
    if (kind === "md") download(fileName(conversation, "md"), asMarkdown(conversation), "text/markdown");
    else download(fileName(conversation, "json"), asJson([conversation]), "application/json");
    return true;
  }

  exportAll() {
    const all = this.store.list();
    if (!all.length) return toast("There is no conversation to export.");
    return download(`nanochat-${new Date().toISOString().slice(0, 10)}.json`, asJson(all), "application/json");
  }

  importText(text) {
    try {
      const all = fromFile(text);
      for (const conversation of all) {
        const own = this.store.conversations.get(conversation.id);
        if (own) conversations.merge(own, conversation);
        this.store.save(own ?? conversation);
      }
      toast(`Imported ${counted(all.length, "conversation")}.`);
      this.thread.draw();
      this.draw();
    } catch (error) {
      toast(error.message);
    }
  }

  // Messages

  /** Takes what was written: a command, or a message. False where it stays in the field. */
  send(text) {
    if (text.startsWith("/")) {
      const lines = runCommand(this.composer.commands, text);
      this.thread.hush();
      if (lines?.length) this.thread.say(lines);
      document.body.classList.toggle("is-empty", !this.conversation.messages.size && !lines?.length);
      return true;
    }
    if (this.answers.isRunning(this.conversation)) {
      announce("The answer is still coming. Escape stops it.");
      return false;
    }
    const before = conversations.path(this.conversation).at(-1)?.id ?? "";
    this.ask(before, text.trim());
    return true;
  }

  ask(parent, text) {
    const { conversation } = this;
    this.thread.hush();
    const question = conversations.add(conversation, parent, "user", [{ type: "text", text }]);
    if (location.hash.slice(1) !== conversation.id) history.replaceState(null, "", `#${conversation.id}`);
    this.answer(question);
  }

  answer(question) {
    this.answers.start(this.conversation, question);
    this.thread.draw();
    this.thread.toEnd();
    this.draw();
    if (!this.models.length) this.loadModels();
  }

  stop() {
    this.answers.stop(this.conversation);
  }

  /** Another answer to the same question; one that never said anything is replaced. */
  regenerate(message) {
    const { conversation } = this;
    if (this.answers.isRunning(conversation)) return;
    const question = conversation.messages.get(message.parent);
    if (!question) return; // of a file in which it is missing
    if (!message.parts.length) conversations.drop(conversation, message);
    this.answer(question);
    this.composer.focus();
  }

  retry() {
    const last = conversations.path(this.conversation).findLast(({ role }) => role === "assistant");
    if (!last) return ["There is no answer yet."];
    this.regenerate(last);
    return undefined;
  }

  edit(message) {
    this.thread.view(message).edit((text) => {
      this.stop();
      this.ask(message.parent, text);
    });
  }

  editLast() {
    const last = conversations.path(this.conversation).findLast(({ role }) => role === "user");
    if (last) this.edit(last);
    return Boolean(last);
  }

  choose(message) {
    conversations.choose(this.conversation, message);
    this.store.save(this.conversation);
    const held = document.activeElement?.getAttribute("aria-label");
    this.thread.draw();
    this.thread
      .view(message)
      .element.querySelector(`.pager [aria-label="${CSS.escape(held ?? "")}"]:enabled, .pager button:enabled`)
      ?.focus();
    this.draw();
  }

  grew(conversation, message) {
    if (conversation === this.conversation) this.thread.grew(message);
  }

  ended(conversation, message) {
    if (conversation === this.conversation) {
      this.thread.draw();
      this.draw();
    } else this.sidebar.draw();
    const words = (this.thread.view(message)?.body.element.innerText ?? "").slice(0, LONGEST_READ);
    const how = { done: "", stopped: "Stopped. ", failed: `${message.error} `, interrupted: "" }[message.state];
    announce(
      conversation === this.conversation
        ? `${how}${words && `nanochat: ${words}`}`
        : `An answer is there in “${conversations.titleOf(conversation)}”.`,
    );
    if (message.state === "failed") this.loadModels();
  }

  openSettings(knob = null) {
    this.panel.open();
    if (knob) element(`set-${knob}`).focus();
  }
}
