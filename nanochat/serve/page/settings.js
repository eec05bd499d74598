// What a person has set: how answers are drawn, what the model is told first, and the page's colours.
// Promises: null is the server's own value and is not sent; a value out of its range is refused with a sentence; other
// tabs follow. Not here: the drawer (panel.js), the commands (commands.js).

const KEY = "nanochat.settings";
export const THEMES = ["auto", "light", "dark"];

/** The knobs of sampling, in the order in which they are shown. `least` and `most` are allowed values. */
export const KNOBS = [
  {
    name: "temperature",
    command: "temperature",
    label: "Temperature",
    least: 0,
    most: 2,
    step: 0.05,
    slider: true,
    hint: "How freely words are chosen; 0 takes the likeliest each time",
  },
  {
    name: "top_k",
    command: "topk",
    label: "Top k",
    least: 1,
    most: 2 ** 31 - 1,
    whole: true,
    hint: "Choose among so many likeliest tokens",
  },
  {
    name: "top_p",
    command: "topp",
    label: "Top p",
    least: 0.01,
    most: 1,
    step: 0.01,
    slider: true,
    hint: "Choose among the likeliest tokens that make up this share",
  },
  {
    name: "min_p",
    command: "minp",
    label: "Min p",
    least: 0,
    most: 1,
    step: 0.01,
    slider: true,
    hint: "No token less likely than this share of the likeliest",
  },
  {
    name: "repetition_penalty",
    command: "penalty",
    label: "Repetition penalty",
    least: 1,
    most: 10,
    step: 0.05,
    hint: "Makes what was said less likely; 1 does nothing",
  },
  {
    name: "max_tokens",
    command: "maxtokens",
    label: "Longest answer",
    least: 1,
    most: 2 ** 31 - 1,
    whole: true,
    hint: "In tokens; empty: as far as the model reaches",
  },
  {
    name: "seed",
    command: "seed",
    label: "Seed",
    least: 0,
    most: Number.MAX_SAFE_INTEGER,
    whole: true,
    hint: "The same seed gives the same answer; empty: another each time",
  },
];

/** The number that a text means for a knob, null for the server's own. Throws an Error with a sentence. */
export function readKnob(knob, text) {
  const words = text.trim();
  if (words === "" || words === "default") return null;
  const value = /^[-+]?(\d+\.?\d*|\.\d+)$/.test(words) ? Number(words) : NaN;
  if (Number.isFinite(value) && value >= knob.least && value <= knob.most && !(knob.whole && !Number.isInteger(value)))
    return value;
  const kind = knob.whole ? "a whole number" : "a number";
  const range = knob.most >= 2 ** 31 - 1 ? `of at least ${knob.least}` : `from ${knob.least} to ${knob.most}`;
  throw new Error(`${knob.label} needs ${kind} ${range}, or “default”; “${words.slice(0, 40)}” is not.`);
}

export class Settings {
  constructor() {
    this.listeners = [];
    this.values = initial();
    this.read(stored());
    addEventListener("storage", ({ key, newValue }) => {
      if (key !== KEY) return;
      this.read(newValue);
      this.tell();
    });
  }

  /** Calls `listener` after every change. */
  subscribe(listener) {
    this.listeners.push(listener);
  }

  tell() {
    for (const listener of this.listeners) listener();
  }

  read(text) {
    this.values = { ...initial(), ...checked(text) };
  }

  set(name, value) {
    this.values[name] = value;
    try {
      localStorage.setItem(KEY, JSON.stringify(this.values));
    } catch {
      // they last until the tab is closed; the store has said so
    }
    this.tell();
  }

  reset() {
    for (const { name } of KNOBS) this.values[name] = null;
    this.set("system", "");
  }

  /** The fields of a request; what is the server's to choose is left out. */
  get sampling() {
    return Object.fromEntries(KNOBS.map(({ name }) => [name, this.values[name]]).filter(([, value]) => value !== null));
  }
}

function initial() {
  return {
    theme: "auto",
    model: null,
    system: "",
    sidebar: true,
    ...Object.fromEntries(KNOBS.map(({ name }) => [name, null])),
  };
}

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** What of a stored text can be used. */
function checked(text) {
  let value = null;
  try {
    value = JSON.parse(text) ?? {};
  } catch {
    return {};
  }
  const found = {};
  if (THEMES.includes(value.theme)) found.theme = value.theme;
  if (typeof value.model === "string") found.model = value.model;
  if (typeof value.system === "string") found.system = value.system;
  if (typeof value.sidebar === "boolean") found.sidebar = value.sidebar;
  for (const knob of KNOBS) {
    const given = value[knob.name];
    if (typeof given === "number" && given >= knob.least && given <= knob.most) found[knob.name] = given;
  }
  return found;
}
