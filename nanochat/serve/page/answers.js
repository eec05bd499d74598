// Answers on their way: asking the server, filling the message as it comes, stopping, waiting, and what went wrong.
// Promises: at most one answer a conversation, several conversations at once; what has come is kept however it ends; a
// busy server is asked once more after the time that it names, which can be cancelled; a wanted key is asked for.
// Not here: elements.

import * as conversations from "./conversation.js";
import { answer, setKey } from "./stream.js";

const DEFAULT_WAIT = 3; // s, where a busy server names no time
const SIGN_OF_LIFE = 4000; // ms between the words to other tabs that an answer is still waited for

export class Answers {
  /** `changed(conversation, message)` after every piece, `ended` likewise; `askKey(reason)` -> key or "". */
  constructor({ store, settings, model, changed, ended, askKey }) {
    Object.assign(this, { store, settings, model, changed, ended, askKey });
    this.running = new Map(); // conversation's id -> {message, controller}
    addEventListener("pagehide", () => this.interrupt());
  }

  /** Asks for an answer to a question; a version beside those that it has. */
  async start(conversation, question) {
    const message = conversations.add(conversation, question.id, "assistant", [], "streaming");
    const controller = new AbortController();
    this.running.set(conversation.id, { message, controller });
    this.store.save(conversation);
    this.changed(conversation, message);
    const alive = setInterval(() => {
      message.updated = Date.now();
      this.store.saveSoon(conversation);
    }, SIGN_OF_LIFE);
    try {
      await this.attempts(conversation, question, message, controller.signal);
      message.state = "done";
    } catch (error) {
      if (message.state !== "interrupted") message.state = error.name === "AbortError" ? "stopped" : "failed";
      if (message.state === "failed") message.error = error.message;
    }
    clearInterval(alive);
    if (this.running.get(conversation.id)?.message === message) this.running.delete(conversation.id);
    conversations.touch(conversation, message);
    delete message.waitUntil;
    const deleted = this.store.conversations.get(conversation.id) !== conversation;
    if (!deleted) this.store.save(conversation);
    this.ended(conversation, message);
  }

  stop(conversation) {
    this.running.get(conversation.id)?.controller.abort();
  }

  isRunning(conversation) {
    return this.running.has(conversation.id);
  }

  /** True for an answer that this tab is writing. */
  owns(message) {
    return [...this.running.values()].some((each) => each.message === message);
  }

  /** The tab goes: what has come is kept, and is no longer on its way. */
  interrupt() {
    for (const [id, { message, controller }] of this.running) {
      const conversation = this.store.conversations.get(id);
      message.state = "interrupted";
      if (!conversation) continue;
      conversations.touch(conversation, message);
      this.store.save(conversation);
      controller.abort();
    }
  }

  async attempts(conversation, question, message, signal) {
    for (let waited = false; ;) {
      try {
        return await this.attempt(conversation, question, message, signal);
      } catch (error) {
        if (error.status === 401) {
          const key = await this.askKey(error.message);
          if (!key) throw error;
          setKey(key);
        } else if (!waited && isBusy(error)) {
          waited = true;
          await this.wait(conversation, message, error.retryAfter ?? DEFAULT_WAIT, signal);
        } else throw error;
      }
    }
  }

  async wait(conversation, message, seconds, signal) {
    message.waitUntil = Date.now() + seconds * 1000;
    this.changed(conversation, message);
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, seconds * 1000);
      signal.addEventListener(
        "abort",
        () => {
          clearTimeout(timer);
          reject(signal.reason);
        },
        { once: true },
      );
    });
    delete message.waitUntil;
    this.changed(conversation, message);
  }

  async attempt(conversation, question, message, signal) {
    const began = performance.now();
    const { sampling, values } = this.settings;
    message.model = this.model();
    if (sampling.max_tokens) message.limit = sampling.max_tokens;
    const messages = conversations.requestMessages(conversation, question, values.system);
    try {
      for await (const piece of answer({ model: message.model, messages, ...sampling }, signal)) {
        if (piece.text !== undefined || piece.tool) conversations.append(message, piece);
        if (piece.finish) message.finish = piece.finish;
        if (piece.usage) use(message, piece.usage);
        if (piece.timings) time(message, piece.timings);
        message.updated = Date.now();
        this.changed(conversation, message);
        this.store.saveSoon(conversation);
      }
    } finally {
      message.seconds ??= (performance.now() - began) / 1000;
      if (message.tokens) message.rate ??= message.tokens / message.seconds;
    }
  }
}

const isBusy = (error) => error.status === 429 || (error.status === 503 && error.retryAfter !== null);
const put = (message, name, value) => Number.isFinite(value) && (message[name] = value);

function use(message, usage) {
  put(message, "tokens", usage.completion_tokens);
  put(message, "total", usage.total_tokens);
  put(message, "forgotten", usage.forgotten_turns);
}

function time(message, timings) {
  put(message, "seconds", timings.total_seconds);
  put(message, "rate", timings.tokens_per_second);
}
