// Markdown as elements, also of text that is still coming.
// Promises: elements are made one by one from a fixed set, and text goes in as text, so that nothing an answer says is
// ever live: no tag, no attribute, no script; images are not loaded; a link shows where it leads. What was shown of a
// growing text is not made again, only its last blocks. Not here: what Markdown is (blocks.js, inline.js).

import { parseBlocks } from "./blocks.js";
import { copyButton, h, icon, unseen } from "./dom.js";
import { parseInline, TOOL_END, TOOL_START } from "./inline.js";

const RESERVED = new RegExp(`[${TOOL_START}${TOOL_END}]`, "g");

/** What parts of an answer are as one Markdown text: a call of a tool is a mark with its number. */
export function sourceOf(parts) {
  let calls = 0;
  const piece = (part) =>
    part.type === "tool" ? TOOL_START + calls++ + TOOL_END : part.text.replaceAll("\r", "").replace(RESERVED, "\uFFFD");
  return parts.map(piece).join("");
}

/** An element that shows the parts of an answer; `show` again as they grow. */
export class Markdown {
  constructor() {
    this.element = h("div", { class: "markdown", dir: "auto" });
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.source = "";
    this.from = 0; // where in the source the blocks begin that may still change
    this.open = []; // their elements
    this.first = null; // the level of the first heading, once it cannot change
    this.code = null; // a block of code at the end, which only grows: its text node, its language
  }

  show(parts) {
    const source = sourceOf(parts);
    if (source === this.source) return;
    if (!source.startsWith(this.source)) this.clear();
    this.source = source;
    this.tools = parts.filter((part) => part.type === "tool");
    const tail = source.slice(this.from);
    const blocks = parseBlocks(tail);
    const settled = this.settled(blocks, tail);
    if (this.grow(blocks)) return;
    const level = (some) => some.find(({ type }) => type === "heading")?.level ?? null;
    this.level = this.first ?? level(blocks) ?? 1;
    this.first ??= level(blocks.slice(0, settled));
    const elements = blocks.map((block) => this.block(block));
    for (const element of this.open) element.remove();
    for (const element of elements) this.element.append(element);
    this.open = elements.slice(settled);
    if (settled) this.from += offsetOfLine(tail, blocks[settled].line);
    const last = blocks.at(-1);
    const grows = last?.type === "code" && blocks.length === settled + 1;
    this.code = grows ? { node: elements.at(-1).querySelector("code").firstChild, language: last.language } : null;
  }

  /** How many of the blocks cannot change any more: two whole lines of a later one stand behind them. */
  settled(blocks, tail) {
    const last = tail.split("\n").length - 1;
    let settled = blocks.length - 1;
    while (settled > 0 && blocks[settled].line + 1 >= last) settled--;
    return Math.max(settled, 0);
  }

  /** A long block of code gets what is new of it. */
  grow(blocks) {
    const [block] = blocks;
    if (!this.code || blocks.length !== 1 || block.type !== "code" || block.language !== this.code.language)
      return false;
    const { node } = this.code;
    if (!block.text.startsWith(node.data) || block.text.includes(TOOL_START)) return false;
    node.appendData(block.text.slice(node.data.length));
    return true;
  }

  block(block) {
    switch (block.type) {
      case "heading":
        return h(`h${this.heading(block.level)}`, {}, this.inline(block.text));
      case "rule":
        return h("hr");
      case "code":
        return codeBlock(block.language, this.words(block.text));
      case "quote":
        return h(
          "blockquote",
          {},
          block.blocks.map((inner) => this.block(inner)),
        );
      case "list":
        return this.list(block);
      case "table":
        return this.table(block);
      default:
        return h("p", {}, this.inline(block.text));
    }
  }

  /** The speaker is an h2, so an answer's first heading is an h3, whatever the model began with. */
  heading(level) {
    return Math.min(Math.max(level - this.level, 0) + 3, 6);
  }

  list({ ordered, start, loose, items }) {
    const attributes = ordered && start !== 1 ? { start } : {};
    const item = (blocks) => {
      const inner = blocks.flatMap((block) =>
        block.type === "paragraph" && !loose ? this.inline(block.text) : [this.block(block)],
      );
      return h("li", {}, inner);
    };
    return h(ordered ? "ol" : "ul", attributes, items.map(item));
  }

  table({ head, align, rows }) {
    const cell = (tag, text, index) =>
      h(tag, { class: `to-${align[index]}`, ...(tag === "th" ? { scope: "col" } : {}) }, this.inline(text));
    const body = rows.map((row) =>
      h(
        "tr",
        {},
        row.map((text, index) => cell("td", text, index)),
      ),
    );
    const top = h(
      "thead",
      {},
      h(
        "tr",
        {},
        head.map((text, index) => cell("th", text, index)),
      ),
    );
    return h(
      "div",
      { class: "table", tabindex: 0, role: "region", "aria-label": "Table" },
      h("table", {}, top, ...(body.length ? [h("tbody", {}, body)] : [])),
    );
  }

  inline(text) {
    return parseInline(text).map((node) => this.node(node));
  }

  node(node) {
    switch (node.type) {
      case "text":
        return document.createTextNode(node.text);
      case "break":
        return h("br");
      case "code":
        return h("code", { text: this.words(node.text) });
      case "tool":
        return toolCall(this.tools[node.index]);
      case "link":
        return link(
          node.url,
          node.children.map((child) => this.node(child)),
        );
      case "image":
        return image(this.words(node.text), node.url);
      default:
        return h(
          node.type,
          {},
          node.children.map((child) => this.node(child)),
        );
    }
  }

  /** Text in which no chip can stand. */
  words(text) {
    return text.replace(/\uE000(\d+)\uE001/g, (_, index) => callText(this.tools[index]));
  }
}

function offsetOfLine(text, line) {
  let offset = 0;
  for (; line > 0; line--) offset = text.indexOf("\n", offset) + 1;
  return offset;
}

/** A call of the calculator in a text, as the terminal shows it. */
export const callText = (tool) => `[${tool.input} = ${tool.output}] `;

function toolCall(tool) {
  const result = tool.output === "" ? h("em", { text: "no result" }) : h("b", { text: tool.output });
  return h(
    "span",
    { class: "tool", title: "Worked out by the calculator, not by the model" },
    icon("calculator"),
    unseen("calculator: "),
    h("code", { text: tool.input }),
    h("span", { class: "equals", text: " = " }),
    result,
  );
}

function codeBlock(language, text) {
  const code = h("code", { dir: "ltr" }, document.createTextNode(text));
  const name = language || "code";
  return h(
    "div",
    { class: "code" },
    h(
      "div",
      { class: "code-top" },
      h("span", { text: name }),
      copyButton("Copy code", () => code.textContent, "Copy"),
    ),
    h("pre", { tabindex: 0, role: "region", "aria-label": `${name} block` }, code),
  );
}

/** The words and, where they are others, the address: nobody has to trust the words. */
function link(url, children) {
  const anchor = h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, children);
  if (!children.length) anchor.textContent = url.href;
  if (anchor.textContent === url.href || `${anchor.textContent}/` === url.href) return anchor;
  return h("span", {}, anchor, " ", h("span", { class: "address", text: url.href }));
}

function image(words, url) {
  const label = words || "image";
  return url
    ? link(url, [icon("image"), document.createTextNode(label)])
    : h("span", { class: "no-image" }, icon("image"), label);
}
