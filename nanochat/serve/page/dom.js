// Elements from names and values, and what every part of the page needs of the browser: icons, copying, times, ids.
// Promises: text goes in as text only; an attribute is one that this page's own code names, never one of an answer's.
// Not here: what is shown.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `on` holds listeners, `text` its text; null and false leave an attribute out, true sets it empty.
 * Children may be arrays: a hundred thousand of them are too many arguments for a call.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** One of the drawings at the top of index.html; what it means is said by the words beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows only a drawing: its name is for screen readers and for the pointer that rests on it. */
export function iconButton(name, label, click, attributes = {}) {
  return h(
    "button",
    { type: "button", class: "quiet", title: label, "aria-label": label, on: { click }, ...attributes },
    icon(name),
  );
}

/** Text that only screen readers have. */
export const unseen = (text) => h("span", { class: "unseen", text });

/** 96 random bits; randomUUID is missing where the page came over plain http from another machine. */
export function newId() {
  const words = crypto.getRandomValues(new Uint32Array(3));
  return Array.from(words, (word) => word.toString(16).padStart(8, "0")).join("");
}

/** Puts text on the clipboard, also over plain http, where there is no navigator.clipboard. True if it worked. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "unseen", readonly: true, "aria-hidden": "true" });
    area.value = text;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}

/** A button that copies what `text` gives, and says so for two seconds. */
export function copyButton(label, text, words = null) {
  const button = h("button", { type: "button", class: "quiet", title: label, "aria-label": label }, icon("copy"));
  if (words) button.append(h("span", { text: words }));
  let timer = 0;
  const show = (name, said) => {
    button.querySelector("use").setAttribute("href", `#i-${name}`);
    button.setAttribute("aria-label", said);
    if (words) button.lastChild.textContent = said === label ? words : said;
  };
  button.addEventListener("click", async () => {
    const copied = await copyText(text());
    show(copied ? "check" : "close", copied ? "Copied" : "The browser did not allow it");
    announce(copied ? "Copied" : "Not copied");
    clearTimeout(timer);
    timer = setTimeout(() => show("copy", label), 2000);
  });
  return button;
}

/** Has a screen reader say something, after what it is saying now. */
export function announce(text) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

/** "3 tokens", "1 token". */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Seconds as a person says them. */
export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** True where the page is laid out for a phone: as in style.css. */
export const narrow = () => matchMedia("(max-width: 760px)").matches;
