"""How the page looks and how it is read: phone and desk, light and dark, names for all that can be pressed, contrast.

Pictures of all of it go to $NANOCHAT_SHOTS, to be looked at; nothing compares them.
"""

import pytest

pytest_plugins = ["tests.serve.page_browser"]

DESKTOP, PHONE = {"width": 1280, "height": 820}, {"width": 390, "height": 844}

ANSWER = """## Counting in Python

Here is a short program that **counts letters** with `str.count`:

```python
def letters(word: str, letter: str) -> int:
    # how often a letter is in a word; this line is long enough to be scrolled to the side on any screen that there is
    return word.count(letter)
```

| Word | Letter | Count |
|:-----|:------:|------:|
| strawberry | r | 3 |
| mississippi | s | 4 |

1. Take the *word* apart
   - one letter at a time
2. Count those that are equal

> As [the manual](https://docs.python.org/3/library/stdtypes.html) has it.
"""
HOSTILE = """<script>document.title = "mine"</script><img src="https://evil.example/x.png" onerror="document.title='mine'">

![a picture](https://evil.example/x.png) and [a link](javascript:document.title='mine') and [your bank](https://evil.example/login)

<style>body { display: none }</style><iframe src="https://evil.example"></iframe>"""
SCREENS = {
    f"{place}-{scheme}": {
        "viewport": size,
        "color_scheme": scheme,
        "has_touch": place == "phone",
        "is_mobile": place == "phone",
    }
    for place, size in (("desk", DESKTOP), ("phone", PHONE))
    for scheme in ("light", "dark")
}
# Of every text that is seen: it, its colour and the colours behind it from the nearest to the farthest, its size.
TEXTS = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || element.closest(".unseen, .skip, svg, noscript")) continue;
        const grounds = [];
        for (let each = element; each; each = each.parentElement) grounds.push(getComputedStyle(each).backgroundColor);
        found.push({ text: walker.currentNode.data.trim(), color: getComputedStyle(element).color, grounds, disabled: Boolean(element.closest(":disabled")) });
    }
    return found;
}"""
# What can be pressed or filled in and has no name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, textarea, select, dialog, nav, [role=region], [role=listbox]")].filter((each) => {
    if (!each.checkVisibility()) return false;
    const labelled = (each.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
    const labels = [...(each.labels ?? [])].map((label) => label.textContent).join("");
    const content = each.matches("button, a") ? each.textContent : "";
    return !(each.getAttribute("aria-label") || labelled || labels || content).trim();
}).map((each) => each.outerHTML.slice(0, 200))"""
OVERFLOW = "document.documentElement.scrollWidth > innerWidth || [...document.querySelectorAll('#thread, #dock, #top, #sidebar, .panel-body')].some((each) => each.scrollWidth > each.clientWidth + 1)"


def luminance(color):
    """Relative luminance of WCAG 2.2 and the opacity of a computed colour."""
    numbers = [
        float(number)
        for number in color[color.index("(") + 1 : -1].replace("/", ",").replace(",", " ").split()[-4:]
        if number.replace(".", "").isdigit()
    ]
    *channels, alpha = numbers if len(numbers) == 4 else [*numbers, 1.0]
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2], alpha


def contrast(text):
    ground = next(light for light, alpha in map(luminance, text["grounds"]) if alpha == 1)
    high, low = sorted((ground, luminance(text["color"])[0]), reverse=True)
    return (high + 0.05) / (low + 0.05)


def check(chat):
    """What must hold of the page as it is now."""
    assert chat.page.evaluate(NAMELESS) == []
    assert not chat.page.evaluate(OVERFLOW), "something is wider than the screen"
    texts = [text for text in chat.page.evaluate(TEXTS) if not text["disabled"] and text["color"] != "rgba(0, 0, 0, 0)"]
    assert texts
    assert {text["text"]: (text["color"], text["grounds"]) for text in texts if contrast(text) < 4.5} == {}


def test_the_contrast_is_computed_as_wcag_has_it():
    assert contrast({"color": "rgb(0, 0, 0)", "grounds": ["rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"]}) == pytest.approx(
        21
    )
    assert contrast({"color": "rgb(119, 119, 119)", "grounds": ["rgb(255, 255, 255)"]}) == pytest.approx(
        4.48, abs=0.005
    )


@pytest.mark.parametrize("screen", SCREENS)
def test_every_view_can_be_read(open_chat, stub, screen):
    chat = open_chat(**SCREENS[screen])
    chat.refusals_are_meant = True
    views = _views(chat, stub, phone=screen.startswith("phone"))
    for number, name in enumerate(views):
        check(chat)
        chat.shot(f"{screen}-{number:02}-{name}")


def _views(chat, stub, phone):
    """Goes from view to view and gives their names."""
    yield "empty"
    chat.ask("What is 12 * 34?", "Let me work that out: ", ("12*34", "408"), "\n\n12 * 34 is **408**.")
    chat.ask(
        "How many r are in strawberry?",
        "s t r a w b e r r y\n\n",
        ('"strawberry".count("r")', "3"),
        " There are 3 r in strawberry.",
    )
    yield "calculator"
    chat.ask("Show me code and a table", ANSWER)
    yield "code"
    chat.page.evaluate("document.getElementById('scroller').scrollTop -= 300")
    yield "scrolled-up"
    yield from _troubled(chat, stub)
    chat.press("Control+k")
    chat.ask("One", "The **first** answer")
    chat.button("Answer again").click()
    chat.page.wait_for_selector(".pager")
    chat.page.wait_for_selector(".streaming", state="detached")
    yield "versions"
    if phone:
        chat.button("Edit and send again").click()
    else:
        chat.press("ArrowUp")
    chat.page.wait_for_selector(".edit")
    yield "edit"
    chat.press("Escape")
    chat.page.fill("#field", "/")
    yield "commands"
    chat.type("/help")
    yield "help"
    chat.type("/no")
    yield "unknown-command"
    chat.page.click("#model")
    yield "settings"
    chat.page.evaluate("document.querySelector('.panel-body').scrollTop = 10000")
    yield "settings-below"
    chat.button("Delete all").click()
    yield "confirm"
    chat.press("Escape")
    chat.press("Escape")
    if phone:
        chat.page.locator("#top [data-sidebar]").click()
        yield "conversations"
        chat.press("Escape")
    chat.page.click("#more")
    yield "menu"
    chat.page.get_by_role("menuitem", name="Delete").click()
    yield "deleted"


def _troubled(chat, stub):
    chat.press("Control+k")
    chat.type(stub.say("Cut", "This answer begins well, and then", {"pause": True}, {"cut": True}))
    chat.page.wait_for_selector(".markdown:has-text('begins')")
    yield "streaming"
    stub.go_on.set()
    chat.page.wait_for_selector(".trouble")
    chat.ask("Much", "A long answer. " * 20, {"finish": "length", "forgotten_turns": 2})
    stub.refusals.append((429, "busy", {"retry_after": "30"}))
    chat.type("Hello?")
    chat.page.wait_for_selector(".calm")
    yield "trouble"
    chat.press("Escape")
    stub.key = "sesame"
    chat.type("And now?")
    chat.page.wait_for_selector("#key-dialog[open]")
    yield "key"
    chat.page.keyboard.type("sesame")
    chat.press("Enter")
    chat.page.wait_for_selector(".markdown:has-text('And now?')")


def test_a_hostile_answer_is_text(open_chat, stub):
    chat = open_chat()
    chat.ask("Attack", HOSTILE)
    assert chat.page.locator(".markdown :is(script, img, style, iframe)").count() == 0
    assert chat.page.title() == "Attack · nanochat"
    assert "<script>" in chat.answer()
    assert {link.get_attribute("href").removesuffix("/") for link in chat.page.locator(".markdown a").all()} == {
        "https://evil.example", "https://evil.example/x.png", "https://evil.example/login",
    }  # fmt: skip
    assert chat.texts(".address") == ["https://evil.example/x.png", "https://evil.example/login"], (
        "where a link leads is seen"
    )
    chat.shot("hostile")
    chat.page.reload()
    chat.page.wait_for_selector(".bubble")
    assert "<script>" in chat.answer()


def test_a_hostile_question_and_a_hostile_title_are_text(chat):
    chat.ask("<img src=x onerror=alert(1)>")
    assert chat.texts(".bubble") == ["<img src=x onerror=alert(1)>"]
    assert chat.texts("#conversations .title") == ["<img src=x onerror=alert(1)>"]
    assert chat.page.locator("img").count() == 0


def test_the_headings_tell_the_page(chat):
    chat.ask("One", "# Big\n\ntext\n\n## Less")
    headings = chat.page.locator("main :is(h1, h2, h3, h4, h5, h6):visible, main h2.unseen").evaluate_all(
        "(all) => all.map((each) => [each.localName, each.textContent])"
    )
    assert headings == [["h1", "One"], ["h2", "You"], ["h2", "nanochat"], ["h3", "Big"], ["h4", "Less"]]


def test_the_theme_is_chosen_whatever_the_system_has(open_chat):
    chat = open_chat(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = chat.page.evaluate(ground)
    chat.button("Settings").click()
    chat.page.get_by_role("radio", name="Light").check()
    light = chat.page.evaluate(ground)
    assert luminance(light)[0] > 0.9 > 0.1 > luminance(dark)[0]
    chat.page.reload()
    assert chat.page.evaluate(ground) == light
    chat.button("Settings").click()
    chat.page.get_by_role("radio", name="Auto").check()
    assert chat.page.evaluate(ground) == dark


def test_on_a_phone_the_conversations_are_a_drawer(open_chat):
    chat = open_chat(**SCREENS["phone-light"])
    chat.ask("Hello")
    assert chat.page.is_hidden("#sidebar")
    chat.button("Show the conversations").click()
    assert chat.page.is_visible("#sidebar")
    assert chat.page.evaluate("document.getElementById('main').inert"), "what is covered is out of reach"
    assert chat.page.evaluate("document.getElementById('sidebar').contains(document.activeElement)")
    chat.press("Escape")
    chat.page.wait_for_selector("#sidebar", state="hidden")
    swipe = """([from, to]) => { const touch = (x) => new Touch({ identifier: 1, target: document.body, clientX: x, clientY: 400 });
        document.body.dispatchEvent(new TouchEvent("touchstart", { touches: [touch(from)], changedTouches: [touch(from)], bubbles: true }));
        document.body.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: [touch(to)], bubbles: true })); }"""
    chat.page.evaluate(swipe, [200, 380])
    assert chat.page.is_hidden("#sidebar"), "not from the middle"
    chat.page.evaluate(swipe, [10, 200])
    chat.page.wait_for_selector("#sidebar", state="visible")
    chat.page.evaluate(swipe, [250, 20])
    chat.page.wait_for_selector("#sidebar", state="hidden")


def test_nothing_moves_for_who_asked_for_that(open_chat, stub):
    chat = open_chat(reduced_motion="reduce")
    chat.type(stub.say("Slow", {"pause": True}))
    chat.page.wait_for_selector(".thinking")
    assert chat.page.evaluate("document.getAnimations().length") == 0


def test_without_scripts_the_page_says_what_it_needs(chromium, stub):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(stub.url)
    assert page.locator(".noscript").is_visible()
    context.close()
