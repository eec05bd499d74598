// Conversations as files: out as Markdown or JSON, in from JSON.
// Promises: what was exported as JSON comes back whole, other versions of questions and answers included; a file that
// is none of ours is refused with a sentence. Not here: storage (store.js).

import { fromJson, path, plainText, titleOf, toJson } from "./conversation.js";

const FORMAT = "nanochat conversations";

export function asMarkdown(conversation) {
  const speaker = { user: "You", assistant: "nanochat" };
  const turns = path(conversation).map(({ role, parts }) => `## ${speaker[role]}\n\n${plainText(parts).trim()}\n`);
  return [`# ${titleOf(conversation)}\n`, ...turns].join("\n");
}

export function asJson(conversations) {
  const file = {
    format: FORMAT,
    version: 1,
    exported: new Date().toISOString(),
    conversations: conversations.map(toJson),
  };
  return JSON.stringify(file, null, 1);
}

/** The conversations of a file. Throws an Error with a sentence. */
export function fromFile(text) {
  let file = null;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is no JSON: choose one that was exported here.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("The file holds no conversations: choose one that was exported here.");
  }
  if (file.version !== 1) throw new Error(`The file is of version ${file.version}; this page reads version 1.`);
  const conversations = file.conversations.map(fromJson);
  if (conversations.includes(null))
    throw new Error(`Conversation ${conversations.indexOf(null) + 1} of the file is broken: nothing was imported.`);
  return conversations;
}

/** Has the browser save a text as a file. */
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export function fileName(conversation, ending) {
  const words = titleOf(conversation)
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 60);
  return `${words || "conversation"}.${ending}`;
}
