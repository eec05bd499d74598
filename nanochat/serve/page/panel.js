// The drawer of settings: the model, how answers are drawn, the colours, the conversations as files.
// Promises: every field says what is used now, the server's own value where nothing is set; what cannot be used is
// said at its field and changes nothing. Not here: the values (settings.js), the list of conversations (sidebar.js).

import { counted, h, icon, iconButton } from "./dom.js";
import { KNOBS, readKnob, THEMES } from "./settings.js";

const ROOM = 5_000_000; // characters that browsers let a site keep, about

export class Panel {
  /** `page` is app.js's: settings, models, modelName, exportAll, importFile, removeAll. */
  constructor(dialog, page) {
    this.dialog = dialog;
    this.page = page;
    this.fields = new Map(KNOBS.map((knob) => [knob.name, new Field(knob, page.settings)]));
    this.model = h("select", { id: "set-model", on: { change: () => page.settings.set("model", this.model.value) } });
    this.about = h("p", { class: "hint" });
    this.system = h("textarea", {
      id: "set-system",
      rows: 3,
      placeholder: "None",
      "aria-describedby": "hint-system",
      on: { change: () => page.settings.set("system", this.system.value) },
    });
    this.kept = h("p", { class: "hint" });
    this.file = h("input", {
      type: "file",
      accept: ".json,application/json",
      class: "unseen",
      tabindex: -1,
      "aria-label": "File of conversations",
      on: { change: () => this.import() },
    });
    dialog.replaceChildren(
      this.top(),
      h("div", { class: "panel-body" }, this.modelPart(), this.answerPart(), this.themePart(), this.dataPart()),
    );
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    page.settings.subscribe(() => this.show());
  }

  open() {
    this.show();
    this.dialog.showModal();
  }

  show() {
    const { page } = this;
    const { values } = page.settings;
    this.model.replaceChildren(...page.models.map(({ id }) => h("option", { value: id, text: id })));
    this.model.value = page.modelName();
    this.model.disabled = page.models.length < 2;
    this.about.textContent = aboutModel(page.card());
    if (document.activeElement !== this.system) this.system.value = values.system;
    for (const field of this.fields.values()) field.show(page.card()?.defaults);
    for (const radio of this.dialog.querySelectorAll('[name="theme"]')) radio.checked = radio.value === values.theme;
    const kept = counted(page.store.conversations.size, "conversation");
    const percent = Math.round((100 * page.store.characters()) / ROOM);
    const share = `${percent || "less than 1"} % of its room`;
    this.kept.textContent = `${kept} in this browser, ${share}. They go nowhere but, as you chat, to this server.`;
  }

  top() {
    return h(
      "header",
      { class: "panel-top" },
      h("h2", { id: "settings-title", text: "Settings" }),
      iconButton("close", "Close the settings", () => this.dialog.close()),
    );
  }

  modelPart() {
    return part(
      "Model",
      h("label", { for: "set-model", class: "unseen", text: "Model" }),
      this.model,
      this.about,
      h("label", { for: "set-system", text: "System message" }),
      h("p", {
        class: "hint",
        id: "hint-system",
        text: "Instructions that open every conversation; small models heed them little",
      }),
      this.system,
    );
  }

  answerPart() {
    const reset = h(
      "button",
      { type: "button", class: "small", on: { click: () => this.page.settings.reset() } },
      icon("again"),
      "Back to the defaults",
    );
    return part("Answers", ...[...this.fields.values()].map((field) => field.element), reset);
  }

  themePart() {
    const choice = (theme) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "theme",
          value: theme,
          on: { change: () => this.page.settings.set("theme", theme) },
        }),
        icon({ auto: "auto", light: "sun", dark: "moon" }[theme]),
        h("span", { text: theme[0].toUpperCase() + theme.slice(1) }),
      );
    return part(
      "Appearance",
      h("div", { class: "segments", role: "radiogroup", "aria-label": "Colours" }, ...THEMES.map(choice)),
    );
  }

  dataPart() {
    const button = (name, words, click, style = "small") =>
      h("button", { type: "button", class: style, on: { click } }, icon(name), words);
    return part(
      "Conversations",
      this.kept,
      h(
        "div",
        { class: "row wrap" },
        button("down", "Export all", () => this.page.exportAll()),
        button("up", "Import", () => this.file.click()),
        button("trash", "Delete all", () => this.page.removeAll(), "small danger"),
      ),
      this.file,
    );
  }

  async import() {
    const [file] = this.file.files;
    this.file.value = "";
    if (file) this.page.importText(await file.text());
    this.show();
  }
}

function part(title, ...children) {
  return h("section", {}, h("h3", { text: title }), ...children);
}

function aboutModel(card) {
  if (!card) return "The server names no model.";
  const facts = [
    card.description,
    card.parameters ? `${size(card.parameters)} parameters` : "",
    card.context ? `reads ${counted(card.context, "token")}` : "",
  ];
  return facts.filter(Boolean).join(" · ");
}

function size(parameters) {
  for (const [unit, letter] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (parameters >= unit) return `${Number((parameters / unit).toPrecision(3))} ${letter}`;
  }
  return String(parameters);
}

/** One knob: a number, a slider for those where it helps, what it does, and what is wrong with what was typed. */
class Field {
  constructor(knob, settings) {
    Object.assign(this, { knob, settings });
    const id = `set-${knob.name}`;
    const { least, most, step } = knob;
    this.input = h("input", {
      id,
      type: "text",
      inputmode: knob.whole ? "numeric" : "decimal",
      autocomplete: "off",
      "aria-describedby": `hint-${knob.name}`,
      on: { change: () => this.take(this.input.value) },
    });
    this.slider = knob.slider
      ? h("input", {
          type: "range",
          min: least,
          max: most,
          step,
          "aria-label": `${knob.label}, slider`,
          on: { input: () => this.take(this.slider.value) },
        })
      : null;
    this.wrong = h("p", { class: "wrong", role: "alert", hidden: true });
    this.element = h(
      "div",
      { class: "field" },
      h("div", { class: "field-top" }, h("label", { for: id, text: knob.label }), this.input),
      h("p", { class: "hint", id: `hint-${knob.name}`, text: knob.hint }),
      this.slider,
      this.wrong,
    );
  }

  show(defaults) {
    const value = this.settings.values[this.knob.name];
    const own = defaults?.[this.knob.name];
    this.input.placeholder = typeof own === "number" ? `${own}` : "default";
    if (!this.wrong.hidden && document.activeElement === this.input) return;
    this.input.value = value ?? "";
    if (this.slider) this.slider.value = value ?? own ?? middle(this.knob);
    this.slider?.classList.toggle("unset", value === null);
  }

  take(text) {
    try {
      this.wrong.hidden = true;
      this.input.removeAttribute("aria-invalid");
      this.settings.set(this.knob.name, readKnob(this.knob, text));
    } catch (error) {
      this.wrong.textContent = error.message;
      this.wrong.hidden = false;
      this.input.setAttribute("aria-invalid", "true");
    }
  }
}

/** Where a slider rests before it is moved: where it does nothing, or the terminal's temperature. */
const middle = ({ name, most, least }) => ({ temperature: 0.6, top_p: most })[name] ?? least;
