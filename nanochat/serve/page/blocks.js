// Markdown's blocks: paragraphs, headings, code, lists, tables, quotes and rules, as plain data.
// Promises: any text gives blocks, in time that grows with its length; every top block says at which line it begins,
// and a block that two whole lines of another one follow never changes however the text goes on, so that what is
// already shown of a streaming answer stays. Not here: emphasis and links (inline.js), elements (markdown.js).

const DEEPEST = 12; // lists and quotes within one another; deeper ones are text
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#*)?$/;
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*))?$/;

/**
 * [{type, line, …}]: heading (level, text), rule, code (language, text), quote (blocks), list (ordered, start, loose,
 * items), table (head, align, rows), paragraph (text).
 */
export function parseBlocks(text) {
  return blocksOf(text.split("\n").map(untabbed), 0);
}

const blank = (line) => line === undefined || !line.trim();
const indentOf = (line) => line.length - line.trimStart().length;
const untabbed = (line) => line.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));

function blocksOf(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (blank(lines[at])) {
      at++;
      continue;
    }
    const [block, next] = blockAt(lines, at, depth);
    blocks.push({ ...block, line: at });
    at = next;
  }
  return blocks;
}

/** The block that begins at a line that is not blank, and the line after it. */
function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return codeAt(lines, at, fence);
  const heading = headingOf(line);
  if (heading) return [heading, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return quoteAt(lines, at, depth);
    if (itemOf(line)) return listAt(lines, at, depth);
  }
  if (tableBegins(lines, at)) return tableAt(lines, at);
  return paragraphAt(lines, at, depth);
}

function headingOf(line) {
  const found = line.length < 1000 ? HEADING.exec(line.trimEnd()) : null;
  return found && { type: "heading", level: found[1].length, text: found[2] ?? "" };
}

function codeAt(lines, at, [, indent, fence, info]) {
  const text = [];
  let next = at + 1;
  for (; next < lines.length; next++) {
    const closing = FENCE.exec(lines[next]);
    if (closing && closing[2][0] === fence[0] && closing[2].length >= fence.length && !closing[3].trim()) break;
    text.push(lines[next].slice(Math.min(indent.length, indentOf(lines[next]))));
  }
  return [{ type: "code", language: info.trim().split(/\s+/)[0].slice(0, 40), text: text.join("\n") }, next + 1];
}

function quoteAt(lines, at, depth) {
  const inside = [];
  for (; at < lines.length && QUOTE.test(lines[at]); at++) inside.push(lines[at].replace(QUOTE, ""));
  return [{ type: "quote", blocks: blocksOf(inside, depth + 1) }, at];
}

/** A line that begins an item of a list: what it is, and by how much the item's further lines are indented. */
function itemOf(line) {
  const found = ITEM.exec(line);
  if (!found || found[1].length > 3 || RULE.test(line)) return null;
  const [, indent, marker, space = " ", text = ""] = found;
  const gap = space.length > 4 ? 1 : space.length;
  return {
    ordered: marker.length > 1,
    start: marker.length > 1 ? parseInt(marker, 10) : null,
    inner: indent.length + marker.length + gap,
    text: " ".repeat(space.length - gap) + text,
    indent: indent.length,
  };
}

function listAt(lines, at, depth) {
  const first = itemOf(lines[at]);
  const items = [];
  let loose = false;
  while (at < lines.length) {
    const item = itemOf(lines[at]);
    if (!item || item.ordered !== first.ordered) break;
    const [inside, next] = itemLines(lines, at, item);
    loose ||= inside.findIndex((line, index) => index > 0 && blank(line)) > 0;
    items.push(blocksOf(inside, depth + 1));
    at = next;
    let further = at;
    while (further < lines.length && blank(lines[further])) further++;
    const follows = further < lines.length ? itemOf(lines[further]) : null;
    if (!follows || follows.ordered !== first.ordered) break;
    loose ||= further > at;
    at = further;
  }
  return [{ type: "list", ordered: first.ordered, start: first.start, loose, items }, at];
}

/** The lines of an item without their indent, and the line after it. Models nest with two spaces, as it comes. */
function itemLines(lines, at, item) {
  const inside = [item.text];
  let open = !blank(item.text) && !FENCE.test(item.text); // a paragraph that the next line may go on with
  let next = at + 1;
  for (; next < lines.length; next++) {
    const line = lines[next];
    const indent = indentOf(line);
    if (blank(line)) {
      let further = next;
      while (further < lines.length && blank(lines[further])) further++;
      if (further === lines.length || !belongs(lines[further], item)) break;
      open = false;
      inside.push("");
      next = further - 1;
    } else if (belongs(line, item)) {
      inside.push(line.slice(Math.min(item.inner, indent)));
      open = true;
    } else if (open && !begins(lines, next) && !itemOf(line)) inside.push(line.trimStart());
    else break;
  }
  return [inside, next];
}

function belongs(line, item) {
  const indent = indentOf(line);
  return indent >= item.inner || (indent >= item.indent + 2 && ITEM.test(line));
}

/** True where a line ends the paragraph above it. */
function begins(lines, at) {
  const line = lines[at];
  const found = ITEM.exec(line);
  const item =
    found && found[1].length <= 3 && !blank(found[4]) && (found[2].length === 1 || parseInt(found[2], 10) === 1);
  return (
    item ||
    FENCE.test(line) ||
    QUOTE.test(line) ||
    RULE.test(line) ||
    Boolean(headingOf(line)) ||
    tableBegins(lines, at)
  );
}

function paragraphAt(lines, at, depth) {
  const text = [lines[at].trim()];
  for (at++; at < lines.length && !blank(lines[at]) && (depth >= DEEPEST || !begins(lines, at)); at++)
    text.push(lines[at].trim());
  return [{ type: "paragraph", text: text.join("\n") }, at];
}

function cellsOf(line) {
  const cells = line
    .trim()
    .replace(/^\|/, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
  if (cells.length > 1 && cells.at(-1) === "") cells.pop();
  return cells;
}

function alignments(line) {
  if (blank(line) || !/^[ \t|:-]*$/.test(line) || !line.includes("-")) return null;
  const cells = cellsOf(line);
  if (!cells.every((cell) => /^:?-+:?$/.test(cell))) return null;
  return cells.map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
}

function tableBegins(lines, at) {
  if (!lines[at].includes("|")) return false;
  const align = alignments(lines[at + 1]);
  return Boolean(align) && lines[at + 1].includes("|") && cellsOf(lines[at]).length === align.length;
}

function tableAt(lines, at) {
  const [head, align] = [cellsOf(lines[at]), alignments(lines[at + 1])];
  const rows = [];
  for (at += 2; at < lines.length && lines[at].includes("|") && !blank(lines[at]); at++) {
    const cells = cellsOf(lines[at]);
    rows.push(align.map((_, index) => cells[index] ?? ""));
  }
  return [{ type: "table", head, align, rows }, at];
}
