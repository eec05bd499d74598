// A conversation: messages that know the one before them, so that an edited question or a second answer stands beside
// the first and nothing is lost; which of them is shown is a choice for each place.
// Promises: what comes from storage or a file becomes a conversation or null, whatever it holds; merging the copies of
// two tabs keeps the messages of both. Plain data and functions of it. Not here: storage (store.js), elements.

import { newId } from "./dom.js";

const ID = /^[a-z0-9-]{1,64}$/i;
const STATES = ["done", "streaming", "stopped", "failed", "interrupted"];
export const ABANDONED = 10_000; // ms without a word, after which a streaming answer's tab is taken to be gone
const LONGEST_TITLE = 80;

export function create() {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, messages: new Map(), chosen: new Map() };
}

/** Adds a message behind `parent` ("" at the beginning) and shows it. */
export function add(conversation, parent, role, parts, state = "done") {
  const now = Date.now();
  const message = { id: newId(), parent, role, parts, state, created: now, updated: now };
  conversation.messages.set(message.id, message);
  choose(conversation, message);
  return message;
}

export function choose(conversation, message) {
  conversation.chosen.set(message.parent, message.id);
  touch(conversation);
}

export function touch(conversation, message = null) {
  conversation.updated = Date.now();
  if (message) message.updated = conversation.updated;
}

/** Takes a message away that nothing follows. */
export function drop(conversation, message) {
  conversation.messages.delete(message.id);
  if (conversation.chosen.get(message.parent) === message.id) conversation.chosen.delete(message.parent);
  touch(conversation);
}

/** All that stand in the place of a message, in the order in which they came. */
export function versions(conversation, message) {
  return childrenOf(conversation, message.parent);
}

function childrenOf(conversation, parent) {
  return [...conversation.messages.values()].filter((message) => message.parent === parent);
}

/** The messages that are shown, first to last. */
export function path(conversation) {
  const children = new Map();
  for (const message of conversation.messages.values()) {
    if (!children.has(message.parent)) children.set(message.parent, []);
    children.get(message.parent).push(message);
  }
  const shown = [];
  for (let parent = ""; children.has(parent); parent = shown.at(-1).id) {
    const here = children.get(parent);
    shown.push(here.find(({ id }) => id === conversation.chosen.get(parent)) ?? here.at(-1));
  }
  return shown;
}

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = path(conversation)[0];
  const words = first ? plainText(first.parts).replace(/\s+/g, " ").trim() : "";
  return words ? shortened(words, LONGEST_TITLE) : "New conversation";
}

/** At most so many characters, the last of them dots where something is missing. */
export function shortened(words, most) {
  return words.length > most ? `${words.slice(0, most - 1).trimEnd()}…` : words;
}

/** The text of a message; a call of the calculator as the terminal shows it. */
export function plainText(parts) {
  return parts.map((part) => (part.type === "tool" ? `[${part.input} = ${part.output}] ` : part.text)).join("");
}

/** What the model is sent: turns up to a question. A question that got no answer is left out, as turns alternate. */
export function requestMessages(conversation, question, system = "") {
  const before = [];
  for (let message = question; message; message = conversation.messages.get(message.parent)) before.unshift(message);
  const turns = before.filter((message, index) => {
    const answer = message.role === "user" ? before[index + 1] : message;
    return message === question || (answer?.role === "assistant" && answer.parts.length > 0);
  });
  const messages = turns.map(({ role, parts }) => ({
    role,
    content: parts.some(({ type }) => type === "tool") ? parts : plainText(parts),
  }));
  return system.trim() ? [{ role: "system", content: system }, ...messages] : messages;
}

/** Appends a piece of an answer to its parts. */
export function append(message, piece) {
  const last = message.parts.at(-1);
  if (piece.tool)
    message.parts.push({
      type: "tool",
      input: String(piece.tool.input ?? ""),
      output: String(piece.tool.output ?? ""),
    });
  else if (last?.type === "text") last.text += piece.text;
  else message.parts.push({ type: "text", text: piece.text });
}

/** An answer that no tab is writing any more. */
export const abandoned = (message) => message.state === "streaming" && Date.now() - message.updated > ABANDONED;

/** Takes over what another copy of the conversation has and this one lacks; the newer of two messages is kept. */
export function merge(mine, theirs) {
  for (const [id, message] of theirs.messages) {
    const own = mine.messages.get(id);
    if (!own) mine.messages.set(id, message);
    else if (message.updated > own.updated) Object.assign(own, message);
  }
  for (const [parent, id] of theirs.chosen) if (!mine.chosen.has(parent)) mine.chosen.set(parent, id);
  if (theirs.updated > mine.updated) [mine.title, mine.updated] = [theirs.title, theirs.updated];
}

export function toJson(conversation) {
  const { id, title, created, updated, messages, chosen } = conversation;
  return { id, title, created, updated, messages: [...messages.values()], chosen: Object.fromEntries(chosen) };
}

/** A conversation of what `toJson` gave, or of anything: null where it is none. Unknown fields are left out. */
export function fromJson(value) {
  if (!isId(value?.id) || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(messageOf);
  if (messages.includes(null)) return null;
  const chosen = Object.entries(value.chosen ?? {}).filter(
    ([parent, id]) => (parent === "" || isId(parent)) && isId(id),
  );
  return {
    id: value.id,
    title: text(value.title).slice(0, 200),
    created: number(value.created) ?? Date.now(),
    updated: number(value.updated) ?? Date.now(),
    messages: new Map(messages.map((message) => [message.id, message])),
    chosen: new Map(chosen),
  };
}

function messageOf(value) {
  const known = isId(value?.id) && ["user", "assistant"].includes(value.role) && Array.isArray(value.parts);
  if (!known || !(value.parent === "" || isId(value.parent))) return null;
  const parts = value.parts.map(partOf);
  if (parts.includes(null)) return null;
  const message = {
    id: value.id,
    parent: value.parent,
    role: value.role,
    parts,
    state: STATES.includes(value.state) ? value.state : "done",
    created: number(value.created) ?? 0,
    updated: number(value.updated) ?? 0,
  };
  for (const name of ["finish", "model", "error"])
    if (typeof value[name] === "string") message[name] = value[name].slice(0, 2000);
  for (const name of ["seconds", "tokens", "rate", "limit", "total", "forgotten"]) {
    if (number(value[name]) !== null) message[name] = value[name];
  }
  return message;
}

function partOf(value) {
  if (value?.type === "text" && typeof value.text === "string") return { type: "text", text: value.text };
  if (value?.type !== "tool" || typeof value.input !== "string" || typeof value.output !== "string") return null;
  return { type: "tool", input: value.input, output: value.output };
}

const isId = (value) => typeof value === "string" && ID.test(value);
const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : null);
