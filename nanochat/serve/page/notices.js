// What comes up over the page: a line that goes by itself, a question before something is lost, the key, the menu.
// Promises: a line with a button waits while the pointer or the focus is on it; every question can be left with Esc,
// which is its harmless answer. Not here: the drawer of settings (panel.js).

import { h, icon } from "./dom.js";

const STAYS = 6000; // ms
const element = (id) => document.getElementById(id);

/** A line at the foot of the page; `action` = [words, function] gives it a button. */
export function toast(words, action = null) {
  const line = h("div", { class: "toast" }, h("p", { text: words }));
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    line.remove();
  };
  if (action) {
    const [label, act] = action;
    line.append(h("button", { type: "button", class: "link", text: label, on: { click: () => (close(), act()) } }));
  }
  line.append(
    h("button", { type: "button", class: "quiet", "aria-label": "Close", on: { click: close } }, icon("close")),
  );
  const start = () => (timer = setTimeout(close, STAYS + 40 * words.length));
  for (const event of ["pointerenter", "focusin"]) line.addEventListener(event, () => clearTimeout(timer));
  for (const event of ["pointerleave", "focusout"]) line.addEventListener(event, start);
  while (element("toasts").children.length > 2) element("toasts").firstChild.remove();
  element("toasts").append(line);
  start();
}

/** True if the person says yes. */
export function confirmed(title, text, yes) {
  const dialog = element("confirm");
  element("confirm-title").textContent = title;
  element("confirm-text").textContent = text;
  dialog.querySelector("[data-yes]").textContent = yes;
  return ask(dialog, "[data-yes]", "click", () => true, false);
}

/** The key that the person gives, "" for none. */
export function askKey(reason) {
  const [dialog, input] = [element("key-dialog"), element("key")];
  element("key-reason").textContent = reason;
  if (!askKey.open) input.value = ""; // a second refusal does not take away what is being typed
  askKey.open ??= ask(dialog, "form", "submit", () => input.value.trim(), "").finally(() => (askKey.open = null));
  return askKey.open;
}

/** Opens a dialog; what `taken` gives after the event, `left` if it is closed otherwise. */
function ask(dialog, selector, event, taken, left) {
  const { promise, resolve } = resolvers();
  const over = new AbortController();
  const options = { signal: over.signal };
  let answer = left;
  dialog.querySelector(selector).addEventListener(
    event,
    (happened) => {
      happened.preventDefault();
      answer = taken();
      dialog.close();
    },
    options,
  );
  dialog.querySelector("[data-cancel]").addEventListener("click", () => dialog.close(), options);
  dialog.addEventListener(
    "close",
    () => {
      over.abort();
      resolve(answer);
    },
    options,
  );
  dialog.showModal();
  return promise;
}

function resolvers() {
  let resolve = null;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}

/** The menu of a conversation: [[icon, words, function], …]. */
export function fillMenu(menu, entries) {
  const items = entries.map(([name, words, act]) =>
    h(
      "button",
      { type: "button", role: "menuitem", on: { click: () => (menu.hidePopover(), act()) } },
      icon(name),
      words,
    ),
  );
  menu.replaceChildren(...items);
  menu.addEventListener("toggle", ({ newState }) => newState === "open" && items[0].focus());
  menu.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    items[(to + items.length) % items.length].focus();
  });
}
