// The conversations of this browser, in its localStorage: one key each, so that tabs do not overwrite one another.
// Promises: saving first takes over what another tab has added; what another tab deleted does not come back; a full or
// closed storage loses nothing that is on the page and says so once each time it begins to fail; a value that is no
// conversation is left where it is and not shown. Not here: files (transfer.js), the settings (settings.js).

import { fromJson, merge, toJson } from "./conversation.js";

const PREFIX = "nanochat.conversation.";
const SOON = 500; // ms between the savings of an answer that is coming

export class Store {
  /** `changed(id)` after another tab's change, `trouble(message)` where the browser does not keep things. */
  constructor({ changed, trouble }) {
    this.changed = changed;
    this.trouble = trouble;
    this.conversations = new Map();
    this.stored = new Map(); // id -> the text that this tab last saw in storage
    this.timers = new Map();
    this.failing = false;
    this.load();
    addEventListener("storage", (event) => this.heard(event));
  }

  load() {
    try {
      for (let index = 0; index < localStorage.length; index++) {
        const key = localStorage.key(index);
        if (key.startsWith(PREFIX)) this.read(key.slice(PREFIX.length), localStorage.getItem(key));
      }
    } catch {
      this.failed(
        "This browser keeps no conversations: its storage is closed to the page. They last until the tab is closed.",
      );
    }
  }

  /** Newest first. */
  list() {
    return [...this.conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  /** How much is kept. */
  characters() {
    return [...this.stored.values()].reduce((sum, text) => sum + text.length, 0);
  }

  /** Takes over the stored text of a conversation. False where it is none. */
  read(id, text) {
    const theirs = parsed(text);
    if (theirs?.id !== id) return false;
    this.stored.set(id, text);
    if (this.conversations.has(id)) merge(this.conversations.get(id), theirs);
    else this.conversations.set(id, theirs);
    return true;
  }

  /** Another tab wrote: `key` is null where it cleared everything. */
  heard({ key, newValue }) {
    if (key !== null && !key.startsWith(PREFIX)) return;
    const ids = key === null ? [...this.conversations.keys()] : [key.slice(PREFIX.length)];
    for (const id of ids) {
      if (key === null || newValue === null) this.forget(id);
      else if (!this.read(id, newValue)) continue;
      this.changed(id);
    }
  }

  forget(id) {
    clearTimeout(this.timers.get(id));
    for (const map of [this.conversations, this.stored, this.timers]) map.delete(id);
  }

  save(conversation) {
    const { id } = conversation;
    clearTimeout(this.timers.get(id));
    this.timers.delete(id);
    this.conversations.set(id, conversation);
    try {
      const there = localStorage.getItem(PREFIX + id);
      if (there === null && this.stored.has(id)) return this.gone(id);
      if (there !== null && there !== this.stored.get(id)) this.read(id, there);
      const text = JSON.stringify(toJson(conversation));
      localStorage.setItem(PREFIX + id, text);
      this.stored.set(id, text);
      this.failing = false;
    } catch {
      this.failed("The browser's storage is full: this conversation is not kept. Export it, or delete others.");
    }
  }

  /** Saves within half a second: for an answer that is coming. What was deleted meanwhile stays deleted. */
  saveSoon(conversation) {
    if (this.conversations.get(conversation.id) !== conversation) return;
    if (!this.timers.has(conversation.id))
      this.timers.set(
        conversation.id,
        setTimeout(() => this.save(conversation), SOON),
      );
  }

  /** Deleted by another tab before its event came. */
  gone(id) {
    this.forget(id);
    this.changed(id);
  }

  remove(id) {
    this.forget(id);
    try {
      localStorage.removeItem(PREFIX + id);
    } catch {
      // storage is closed: there was nothing in it
    }
  }

  failed(message) {
    if (!this.failing) this.trouble(message);
    this.failing = true;
  }
}

function parsed(text) {
  try {
    return fromJson(JSON.parse(text));
  } catch {
    return null;
  }
}
