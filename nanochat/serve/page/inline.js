// What stands within a line of Markdown: emphasis, code, links, addresses, images, line breaks, calls of a tool.
// Promises: any text gives nodes and costs time in proportion to its length, whatever it is; a link leads to http or
// https and to no other scheme, without a user name before the host. Not here: blocks (blocks.js), elements.

// Private characters around the number of a tool call; they never come from a model.
export const TOOL_START = "\uE000";
export const TOOL_END = "\uE001";

const DEEPEST = 20; // emphasis within emphasis; beyond it the inner one is text
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}_]/u;
const ADDRESS = /https?:\/\/[^\s<>"`\uE000\uE001]{1,2000}/y; // the bounds keep hostile text from costing its square
const TARGET = /\(\s{0,9}<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s{1,9}(?:"[^"\n]*"|'[^'\n]*'))?\s{0,9}\)/y;
const TOOL = /\uE000(\d+)\uE001/y;

/** The address as a URL if a reader may be sent there, else null. */
export function safeUrl(text) {
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return null;
  const url = new URL(text);
  return (url.protocol === "http:" || url.protocol === "https:") && !url.username && !url.password ? url : null;
}

/** Nodes of a line or of several: {type: text | break | code | strong | em | del | link | image | tool, …}. */
export function parseInline(text, linked = false) {
  return new Inline(text, linked).nodes();
}

class Inline {
  constructor(text, linked) {
    this.text = text;
    this.linked = linked; // within a link there is no other
    this.at = 0;
    this.out = [];
    this.openers = []; // runs of * _ ~ in `out` that may begin emphasis
    this.bottoms = new Map(); // kind of closing run -> number of openers that are known not to fit
    this.unclosed = new Set(); // lengths of backtick runs that nothing closes
    this.brackets = null;
  }

  nodes() {
    const { text } = this;
    while (this.at < text.length) {
      const node = this.special(text[this.at]);
      if (node) this.out.push(node);
      else if (node === null) this.plain(text[this.at++]);
    }
    return merged(this.out.map(literal));
  }

  plain(text) {
    const last = this.out.at(-1);
    if (last?.type === "text") last.text += text;
    else this.out.push({ type: "text", text });
  }

  /** A node, `undefined` where something was read that is no node yet, null for an ordinary character. */
  special(char) {
    switch (char) {
      case "\\":
        return this.escape();
      case "\n":
        return (this.at++, { type: "break" });
      case "`":
        return this.code();
      case "*":
      case "_":
      case "~":
        return this.run(char);
      case "!":
        return this.text[this.at + 1] === "[" ? this.target(this.at + 1) : null;
      case "[":
        return this.target(this.at);
      case "<":
        return this.bracketed();
      case "h":
        return this.address();
      case TOOL_START:
        return this.tool();
      default:
        return null;
    }
  }

  match(pattern, at = this.at) {
    pattern.lastIndex = at;
    return pattern.exec(this.text);
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (!PUNCTUATION.test(next)) return null;
    this.at += 2;
    this.plain(next);
    return undefined;
  }

  tool() {
    const found = this.match(TOOL);
    if (!found) return null;
    this.at += found[0].length;
    return { type: "tool", index: Number(found[1]) };
  }

  code() {
    const { text, at } = this;
    const length = runLength(text, at);
    this.at += length;
    for (let end = this.unclosed.has(length) ? -1 : text.indexOf("`", this.at); end >= 0;) {
      const closing = runLength(text, end);
      if (closing === length) {
        this.at = end + length;
        const inside = text.slice(at + length, end).replaceAll("\n", " ");
        const padded = inside.length > 2 && inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
        return { type: "code", text: padded ? inside.slice(1, -1) : inside };
      }
      end = text.indexOf("`", end + closing);
    }
    this.unclosed.add(length);
    this.plain("`".repeat(length));
    return undefined;
  }

  address() {
    if (this.linked || WORD.test(this.text[this.at - 1] ?? " ")) return null;
    const found = this.match(ADDRESS);
    if (!found) return null;
    let words = found[0].replace(/[.,;:!?'*_~\]]+$/, "");
    if (words.endsWith(")") && !words.includes("(")) words = words.replace(/[).,;:!?'*_~\]]+$/, "");
    const url = safeUrl(words);
    if (!url) return null;
    this.at += words.length;
    return { type: "link", url, children: [] };
  }

  /** <https://…>; any other < is a character. */
  bracketed() {
    const found = this.linked ? null : this.match(ADDRESS, this.at + 1);
    const url = found && this.text[ADDRESS.lastIndex] === ">" ? safeUrl(found[0]) : null;
    if (!url) return null;
    this.at += found[0].length + 2;
    return { type: "link", url, children: [] };
  }

  /** [words](address), or with an exclamation mark before it an image, which is never loaded. */
  target(open) {
    this.brackets ??= matchingBrackets(this.text);
    const close = this.brackets.get(open);
    if (close === undefined || this.text[close + 1] !== "(") return null;
    const found = this.match(TARGET, close + 1);
    if (!found) return null;
    const [label, url, image] = [this.text.slice(open + 1, close), safeUrl(found[1]), open !== this.at];
    if (image) {
      this.at = close + 1 + found[0].length;
      return { type: "image", text: label, url: this.linked ? null : url };
    }
    if (!url || this.linked) return null;
    this.at = close + 1 + found[0].length;
    return { type: "link", url, children: parseInline(label, true) };
  }

  /** Emphasis as CommonMark has it: a closing run takes the nearest opening one of its kind. */
  run(char) {
    const { text, at } = this;
    const count = runLength(text, at);
    const [before, after] = [text[at - 1] ?? " ", text[at + count] ?? " "];
    const left = !/\s/.test(after) && (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
    const right = !/\s/.test(before) && (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
    const inWord = char === "_" && left && right;
    const run = {
      type: "run",
      char,
      count,
      length: count, // as it was written; `count` is what is left of it
      opens: left && (!inWord || PUNCTUATION.test(before)),
      closes: right && (!inWord || PUNCTUATION.test(after)),
    };
    this.at += count;
    if (char === "~" && count !== 2) run.opens = run.closes = false;
    if (run.closes) this.close(run);
    if (run.count) {
      this.out.push(run);
      if (run.opens) this.openers.push({ run, at: this.out.length - 1 });
    }
    return undefined;
  }

  close(run) {
    while (run.count > 0) {
      const kind = run.char + (run.opens ? "both" : "") + (run.length % 3);
      let index = this.openers.length - 1;
      const bottom = this.bottoms.get(kind) ?? 0;
      while (index >= bottom && !fits(this.openers[index].run, run)) index--;
      if (index < bottom) {
        this.bottoms.set(kind, this.openers.length);
        return;
      }
      this.wrap(run, index);
    }
  }

  wrap(run, index) {
    const { run: opener, at } = this.openers[index];
    const used = opener.count >= 2 && run.count >= 2 ? 2 : 1;
    const inside = this.out.splice(at + 1);
    const children = inside.map(literal);
    this.openers.length = opener.count > used ? index + 1 : index;
    for (const [kind, bottom] of this.bottoms) this.bottoms.set(kind, Math.min(bottom, this.openers.length));
    opener.count -= used;
    run.count -= used;
    if (!opener.count) this.out.pop();
    const depth = children.reduce((deepest, node) => Math.max(deepest, (node.depth ?? 0) + 1), 1);
    const type = run.char === "~" ? "del" : used === 2 ? "strong" : "em";
    if (depth > DEEPEST) this.out = this.out.concat(children);
    else this.out.push({ type, depth, children: merged(children) });
  }
}

function fits(opener, closer) {
  if (opener.char !== closer.char) return false;
  const either = opener.closes || closer.opens; // CommonMark's rule of three
  return !either || (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

/** A run that turned out to be no emphasis is the characters that it is made of. */
function literal(node) {
  return node.type === "run" ? { type: "text", text: node.char.repeat(node.count) } : node;
}

function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end++;
  return end - at;
}

/** [ -> its ], in one pass over the text. */
function matchingBrackets(text) {
  const [found, open] = [new Map(), []];
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length) found.set(open.pop(), at);
  }
  return found;
}

/** Neighbouring texts as one. */
function merged(nodes) {
  const out = [];
  for (const node of nodes) {
    if (node.type === "text" && out.at(-1)?.type === "text")
      out[out.length - 1] = { type: "text", text: out.at(-1).text + node.text };
    else out.push(node);
  }
  return out;
}
