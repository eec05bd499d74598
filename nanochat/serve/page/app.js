// The page's beginning: makes it, draws it for the first time, and gives the keys that work everywhere.
// Promises: a letter that is typed nowhere goes into the message field; the system's own keys are left alone.
// Not here: what can be done (page.js).

import { h, narrow } from "./dom.js";
import { fillMenu } from "./notices.js";
import { Page } from "./page.js";

// What also a tiny model can answer.
const SUGGESTIONS = ["Who are you?", "What is 12 * 34?", "How many r are in strawberry?", "Spell keyboard"];
const element = (id) => document.getElementById(id);

const page = new Page();

function showTheme() {
  const { theme } = page.settings.values;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function typesNowhere() {
  const active = document.activeElement;
  return !active || active === document.body || active === element("scroller");
}

function shortcut(event) {
  if (event.altKey || event.shiftKey || !(event.ctrlKey || event.metaKey)) return null;
  return { k: () => page.begin(), b: () => page.sidebar.toggle(), ",": () => page.openSettings() }[
    event.key.toLowerCase()
  ];
}

function key(event) {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const run = shortcut(event);
  if (run) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape" && narrow() && page.sidebar.open) page.sidebar.toggle(false);
  else if (event.key === "Escape" && !event.defaultPrevented && page.answers.isRunning(page.conversation)) {
    event.preventDefault();
    page.stop();
  } else if (
    event.key.length === 1 &&
    event.key !== " " &&
    !event.ctrlKey &&
    !event.metaKey &&
    !event.altKey &&
    typesNowhere()
  ) {
    page.composer.focus(true); // and the letter goes there
  }
}

function suggestion(words) {
  return h("button", { type: "button", text: words, on: { click: () => page.send(words) } });
}

element("suggestions").append(...SUGGESTIONS.map(suggestion));
fillMenu(element("menu"), [
  [
    "pencil",
    "Rename",
    () => {
      page.sidebar.toggle(true);
      page.sidebar.rename(page.conversation);
    },
  ],
  ["down", "Save as Markdown", () => page.export("md")],
  ["down", "Save as JSON", () => page.export("json")],
  ["trash", "Delete", () => page.remove(page.conversation)],
]);
element("new").addEventListener("click", () => page.begin());
element("new-above").addEventListener("click", () => page.begin());
element("open-settings").addEventListener("click", () => page.openSettings());
element("model").addEventListener("click", () => page.openSettings());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the conversation
  page.composer.focus(true);
});
document.addEventListener("keydown", key);
addEventListener("popstate", () => page.openAddressed());
addEventListener("online", () => page.loadModels());
page.settings.subscribe(() => {
  showTheme();
  page.sidebar.place(false);
  page.drawModel();
});
showTheme();
if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelector("#new kbd").textContent = "⌘K";
page.openAddressed();
page.loadModels();
