// What can be typed with a / instead of a message.
// Promises: nothing that begins with / goes to the model: an unknown word is answered with the list of commands; a
// space before the / sends it as text. Each command says what it did. Not here: the field (composer.js).

import { h } from "./dom.js";
import { KNOBS, readKnob, THEMES } from "./settings.js";

/** The commands, made for a page: [{name, takes, does, run(words) -> lines or nothing}]. `page` is app.js's. */
export function commandsOf(page) {
  const all = [
    { name: "help", does: "shows the commands and the keys", run: () => helpLines(all) },
    { name: "new", does: "begins another conversation", run: () => page.begin() },
    { name: "clear", does: "deletes this conversation; can be undone", run: () => page.remove(page.conversation) },
    { name: "stop", does: "stops the answer", run: () => page.stop() },
    { name: "retry", does: "answers the last question again", run: () => page.retry() },
    {
      name: "export",
      takes: "md | json",
      does: "saves this conversation as a file",
      run: (words) => exportAs(page, words),
    },
    {
      name: "model",
      takes: "name",
      does: "shows the models, or chooses one",
      run: (words) => chooseModel(page, words),
    },
    ...KNOBS.map((knob) => knobCommand(page, knob)),
    {
      name: "system",
      takes: "text",
      does: "sets the system message; “off” for none",
      run: (words) => system(page, words),
    },
    { name: "theme", takes: THEMES.join(" | "), does: "sets the page's colours", run: (words) => theme(page, words) },
    { name: "settings", does: "opens the settings", run: () => page.openSettings() },
  ];
  return all;
}

/** What a text that begins with / does. */
export function runCommand(commands, text) {
  const [, name, words] = /^\/(\S*)\s*([^]*)$/.exec(text);
  const command = commands.find((each) => each.name === name.toLowerCase());
  if (command) return attempt(() => command.run(words.trim()));
  const known = commands.map((each) => `/${each.name}`).join(" ");
  return [
    `There is no command /${name.slice(0, 40)}. A space before the / sends it to the model as text.`,
    `There are: ${known}`,
  ];
}

function attempt(run) {
  try {
    return run();
  } catch (error) {
    return [error.message];
  }
}

function knobCommand(page, knob) {
  const takes = knob.whole ? "N | default" : `${knob.least}…${knob.most} | default`;
  const run = (words) => {
    if (words) page.settings.set(knob.name, readKnob(knob, words));
    const value = page.settings.values[knob.name];
    return [`${knob.label}: ${value ?? "the server's default"}`];
  };
  return { name: knob.command, takes, does: `sets the ${knob.label.toLowerCase()}`, run };
}

function exportAs(page, words) {
  const kind = words.toLowerCase() || "md";
  const known = ["md", "json"].includes(kind);
  if (!known) throw new Error(`/export takes md or json; “${words.slice(0, 40)}” is neither.`);
  return [page.export(kind) ? `Saved as a file.` : "There is nothing to export yet."];
}

function chooseModel(page, words) {
  const names = page.models.map(({ id }) => id);
  if (words && !names.includes(words))
    throw new Error(`There is no model “${words.slice(0, 60)}”; there are: ${names.join(", ") || "none"}.`);
  if (words) page.settings.set("model", words);
  return [`Model: ${page.modelName() || "none"}`, ...(names.length > 1 ? [`There are: ${names.join(", ")}`] : [])];
}

function system(page, words) {
  if (words) page.settings.set("system", words === "off" ? "" : words);
  return [`System message: ${page.settings.values.system || "none"}`];
}

function theme(page, words) {
  if (words && !THEMES.includes(words))
    throw new Error(`/theme takes ${THEMES.join(", ")}; “${words.slice(0, 40)}” is none of them.`);
  if (words) page.settings.set("theme", words);
  return [`Colours: ${page.settings.values.theme}`];
}

export const KEYS = [
  ["Enter", "sends"],
  ["Shift+Enter", "begins a new line"],
  ["Esc", "stops the answer"],
  ["↑", "in an empty field: edits your last message"],
  ["Ctrl+K", "begins another conversation"],
  ["Ctrl+B", "shows or hides the conversations"],
  ["Ctrl+,", "opens the settings"],
  ["/", "goes to the field; there, lists the commands"],
  ["F2", "on a conversation: renames it"],
  ["Delete", "on a conversation: deletes it"],
];

function helpLines(all) {
  const row = (words, does) => [h("dt", {}, h("code", { text: words })), h("dd", { text: does })];
  const mac = /Mac|iPhone|iPad/.test(navigator.platform);
  return [
    h("h3", { text: "Commands" }),
    h("dl", {}, ...all.flatMap(({ name, takes, does }) => row(`/${name}${takes ? ` ${takes}` : ""}`, does))),
    h("h3", { text: "Keys" }),
    h("dl", {}, ...KEYS.flatMap(([key, does]) => row(mac ? key.replace("Ctrl+", "⌘") : key, does))),
  ];
}
