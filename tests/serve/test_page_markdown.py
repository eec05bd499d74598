"""What the page makes of an answer's Markdown: the same as a peer, nothing live of hostile text, no matter how it comes."""

import re
from html import unescape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

pytest_plugins = ["tests.serve.page_browser"]

TOLERANT = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHOW = """async ([pieces, whole]) => {
    const { Markdown } = await import("/markdown.js");
    const shown = new Markdown();
    const part = { type: "text", text: "" };
    for (const piece of pieces) {
        part.text += piece;
        shown.show([part]);
    }
    for (const each of shown.element.querySelectorAll("svg, .address, .code-top")) if (!whole) each.remove();
    return shown.element.innerHTML;
}"""
# Of every element that a text gives: its name and its attributes.
ELEMENTS = """async (text) => {
    const { Markdown } = await import("/markdown.js");
    const shown = new Markdown();
    shown.show([{ type: "text", text }]);
    document.body.append(shown.element);
    const found = [...shown.element.querySelectorAll("*")].map((each) => [
        each.localName, Object.fromEntries([...each.attributes].map(({ name, value }) => [name, value])), each.namespaceURI]);
    shown.element.remove();
    return found;
}"""
ALLOWED = {
    "p", "h3", "h4", "h5", "h6", "br", "hr", "strong", "em", "del", "code", "pre", "ul", "ol", "li", "blockquote", "table",
    "thead", "tbody", "tr", "th", "td", "a", "div", "span", "button", "svg", "use",
}  # fmt: skip
ATTRIBUTES = {
    "class",
    "dir",
    "href",
    "target",
    "rel",
    "tabindex",
    "role",
    "aria-label",
    "aria-hidden",
    "title",
    "scope",
    "start",
    "type",
}
PIECES = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "<a href='javascript:alert(1)'>", "</div></main>", "<!--",
    "[a](javascript:alert(1))", "[a](JaVaScRiPt:alert(1))", "[a](data:text/html,<script>alert(1)</script>)", "[a](//evil.example)", "[a](\tjavascript:alert(1))",
    "![a](https://evil.example/x.png)", "![a](x.png)", "![", "](", "[", "]", "(", ")", "https://", "http://a.example/?q=\"onmouseover=alert(1)", "javascript:",
    "[b](https://user:pass@evil.example)", "[c](https://ok.example \"onclick=1\")", "<https://ok.example>", "<javascript:alert(1)>", "&lt;script&gt;", "&#60;", "\u0000",
    "\u202e", "\ue000", "\ue0000\ue001", "\ue00099\ue001", "`", "```", "```html\n", "~~~", "|", "---|---", "\n", "\n\n", "    ", "\t", "* ", "- ", "1. ", "> ", "#", "# ", "**",
    "*", "_", "__", "~~", "\\", "|a|b|\n|-|-|\n", "a", "word ", "\"", "'", " onload=alert(1) ", "{{", "${alert(1)}", "\ud83d\ude00",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)
ORDINARY = st.lists(
    st.sampled_from(["word", "two words", "**bold**", "*it*", "`code`", "\n", "\n\n", "- ", "  - ", "1. ", "2. ", "> ", "# ", "## ", "```\n", "```py\n", "|a|b|", "|-|-|", "---", "\n- item", "\n1. one", "https://a.example/b", "[t](https://a.example)", " ", "    "]),
    max_size=30,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def renderer(chromium):
    """A page whose modules can be called; one for all examples."""
    from tests.serve.page_stub import page_stub

    with page_stub() as stub:
        context = chromium.new_context()
        page = context.new_page()
        asked, told = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
        page.goto(stub.url)
        page.wait_for_selector("#model-name:text('tiny')")
        yield page
        context.close()
    assert told == []
    assert [url for url in asked if not url.startswith(stub.url)] == [], "something was loaded from elsewhere"


@TOLERANT
@given(HOSTILE)
def test_of_hostile_text_nothing_is_live(renderer, text):
    for name, attributes, namespace in renderer.evaluate(ELEMENTS, text):
        assert name in ALLOWED
        assert attributes.keys() <= ATTRIBUTES
        assert namespace == "http://www.w3.org/2000/svg" or name not in ("svg", "use")
        if name == "use":
            assert re.fullmatch(r"#i-[a-z]+", attributes["href"])
        elif name == "a":
            assert re.match(r"https?://[^/@]+(/|$)", attributes["href"])
            assert attributes["rel"] == "noopener noreferrer"
            assert attributes["target"] == "_blank"
        else:
            assert "href" not in attributes


@TOLERANT
@given(HOSTILE | ORDINARY, st.data())
def test_a_text_that_comes_in_pieces_ends_up_as_the_same_text_at_once(renderer, text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    at_once = renderer.evaluate(SHOW, [[text], True])
    assert renderer.evaluate(SHOW, [pieces, True]) == at_once
    assert renderer.evaluate(SHOW, [list(text), True]) == at_once


@pytest.mark.parametrize(
    "text",
    [
        "word\n|a|b|\n|-|-|x", "word\n\n|a|b|\n|-|-|\n|1|2|\nend", "2. a\n\n3. b", "- a\n\n- b", "- a\n\n-b", "- a\n\n  more", "1. a\n\n10. b", "a\n# b", "##\n\n# b\n\n### c",
        "```py\nx\n```\ny", "```py\nx\n```x\ny", "> a\n> b\n\nc", "a\n\n---\n\nb", "a\n\n---x\n\nb", "a\n-\nb", "a\n\n* * *\n\nb", "- a\n  ```\n  b\n  ```\n\nc",
    ],
)  # fmt: skip
def test_a_line_that_turns_out_to_be_something_else_takes_nothing_with_it(renderer, text):
    assert renderer.evaluate(SHOW, [list(text), True]) == renderer.evaluate(SHOW, [[text], True])


@TOLERANT
@given(ORDINARY)
def test_no_letter_of_a_text_is_lost(renderer, text):
    html = renderer.evaluate(SHOW, [[text], True])
    shown = unescape(re.sub(r"<button.*?</button>|<svg.*?</svg>|<[^>]*>", "", html))
    if "[" in text or "```" in text or "|" in text or "http" in text:
        return  # an address, a language and a row beyond the columns are told otherwise
    assert re.sub(r"[^a-z]", "", shown) == re.sub(r"[^a-z]", "", text)


def peer(text):
    """The peer's HTML in the page's dialect: a line's end is a break, the first heading is an h3, links open elsewhere."""
    html = MarkdownIt("commonmark", {"breaks": True, "html": False}).enable(["table", "strikethrough"]).render(text)
    first = int((re.findall(r"<h([1-6])>", html) or ["1"])[0])
    html = re.sub(r"<(/?)h([1-6])>", lambda found: f"<{found[1]}h{min(max(int(found[2]) - first, 0) + 3, 6)}>", html)
    return plain(
        html.replace("<s>", "<del>").replace("</s>", "</del>").replace("<br />", "<br>").replace("<hr />", "<hr>")
    )


def plain(html):
    """Without what one of the two adds: attributes but those that tell something, white space between blocks."""
    html = re.sub(r'<div class="(?:code|table)"[^>]*>|</div>', "", html)
    html = re.sub(r"<(a) [^>]*href=(\"[^\"]*\")[^>]*>", r"<\1=\2>", html)
    html = re.sub(r'<ol start="(\d+)">', r"<ol=\1>", html)
    html = re.sub(r"<([a-z0-9]+) [^>]*>", r"<\1>", html)
    html = re.sub(r"<span>|</span>|\u00a0", "", html.replace("&nbsp;", ""))
    html = re.sub(r'="(https?://[^/"]+)/"', r'="\1"', html.replace("&quot;", '"'))
    html = re.sub(r"\n</code>", "</code>", html)
    return re.sub(r"\s*\n\s*|\s+(?=</)", "", html) if "<pre>" not in html else html.replace("\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "plain", "two\nlines", "two\n\nparagraphs", "# One\n## Two\n### Three\n#### Four\n####### Seven", "#hash", "## closed ##", "### Deep\n# High\n#### Deeper", "**bold** and *it* and ***both***",
        "__bold__ and _it_", "snake_case_name and 2*3*4", "a * b * c", "**not closed", "*a **b** c*", "**a *b* c**", "~~gone~~ and ~one~", "`code` and ``a ` b``", "`not closed",
        "\\*escaped\\* and \\a", "- a\n- b\n- c", "* a\n* b", "1. a\n2. b", "3. a\n4. b", "- a\n  - b\n    - c\n- d", "1. a\n   - b\n   - c\n2. d", "- a\n\n  more of a\n- b",
        "- a\n\n- b", "text\n- a\n- b", "text\n1. a", "text\n2. b", "- a\nlazy", "> quote\n> more", "> # head\n> - a\n> - b", "> > deep", "---", "a\n\n***\n\nb", "```\ncode\n```", "```python\ndef f():\n    return 1\n```",
        "~~~\n```\n~~~", "```\nnot closed", "````\n```\n````", "- a\n  ```\n  code\n  ```\n- b", "|a|b|\n|-|-|\n|1|2|", "a | b\n:-|-:\n1 | 2\n3 | 4", "| a |\n|---|\n| `x\\|y` |", "|a|b|\n|-|\n|1|2|",
        "[text](https://a.example/b)", "[**bold** text](https://a.example/b)", "[a](https://a.example/b_(c))", "<https://a.example/b>", "1 < 2 & 3 > 2", "<b>html</b>",
        "- [link](https://a.example/)\n- `code`", "1) a\n2) b", "-", "- a\n-\n- c", "*", "**", "a*b*c", "a**b**c", "*(a)*", "**a**b", "“**quoted**”", "***a** b*", "***a* b**",
    ],
)  # fmt: skip
def test_the_same_as_a_peer(renderer, text):
    assert plain(renderer.evaluate(SHOW, [[text], False])) == peer(text)


@TOLERANT
@given(st.text(alphabet="*_ab (", max_size=14))
def test_emphasis_is_where_a_peer_has_it(renderer, text):
    text = "x" + text + "x"  # a paragraph
    assert plain(renderer.evaluate(SHOW, [[text], False])) == peer(text)


def test_what_is_shown_of_a_growing_answer_is_not_made_again(renderer):
    """Of 300 paragraphs, one piece each; a block of code of 300 lines, one piece each."""
    renderer.evaluate(
        "() => { window.made = 0; const create = Document.prototype.createElement;"
        "Document.prototype.createElement = function (...all) { made++; return create.apply(this, all); }; }"
    )
    renderer.evaluate(SHOW, [["Some words.\n\n"] * 300, True])
    paragraphs = renderer.evaluate("made")
    renderer.evaluate(SHOW, [["```\n", *["a line of code\n"] * 300], True])
    code = renderer.evaluate("made") - paragraphs
    renderer.reload()
    assert 300 <= paragraphs <= 5 * 300, "all of them with every piece are 45,000"
    assert code < 50


@pytest.mark.parametrize(
    "piece",
    [
        "*a ",
        "**a",
        "[",
        "![",
        "[a](",
        "`",
        "`` ` ",
        "> ",
        "- ",
        "_a_ ",
        "https://[",
        "(((",
        "~~a",
        "|a",
        "<http://",
        "\\",
        "*_",
        "a\n",
        "\n",
        "- a\n\n\n",
        "#",
    ],
)
def test_a_hundred_thousand_characters_of_anything_are_shown(renderer, piece):
    """Where the cost went with the square of the length, this would take minutes, and the time limit of a test would end it."""
    renderer.evaluate(SHOW, [[piece * (100_000 // len(piece))], True])
