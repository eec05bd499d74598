"""A person talks to a model in the browser: answers as they come, calls of the calculator, stop, edit, regenerate."""

import pytest

pytest_plugins = ["tests.serve.page_browser"]


def test_a_conversation_in_which_the_model_calls_the_calculator(chat, stub):
    answer = chat.ask("What is 12 * 34?", "That is ", ("12*34", "408"), "\n\nSo **408**.")
    assert answer.split() == ["That", "is", "calculator:", "12*34", "=", "408", "So", "408."]
    assert chat.texts(".tool b") == ["408"]
    assert chat.texts(".tool code") == ["12*34"]
    assert chat.texts(".markdown strong") == ["408"]
    assert chat.texts(".facts") == ["3 tokens · 43 tokens/s · 0.8 s"]
    assert chat.texts("#context") == ["33 of 512 tokens"]
    assert chat.page.title() == "What is 12 * 34? · nanochat"
    chat.ask("And twice that?")
    first, second = stub.asked
    assert first["messages"] == [{"role": "user", "content": "What is 12 * 34?"}]
    assert {
        "stream": True,
        "stream_options": {"include_usage": True},
        "tool_display": "separate",
        "truncation": "auto",
        "model": "tiny",
    }.items() <= first.items()
    assert "temperature" not in first, "what nobody set is the server's to choose"
    assert second["messages"][1:] == [
        {"role": "assistant", "content": [
            {"type": "text", "text": "That is "}, {"type": "tool", "input": "12*34", "output": "408"}, {"type": "text", "text": "\n\nSo **408**."},
        ]},
        {"role": "user", "content": "And twice that?"},
    ]  # fmt: skip


def test_an_answer_is_shown_as_it_comes(chat, stub):
    chat.type(stub.say("Tell", "The **first", {"pause": True}, "** half."))
    chat.page.wait_for_selector(".streaming :text('The **first')")
    assert chat.page.get_attribute(".streaming", "aria-busy") == "true"
    stub.go_on.set()
    chat.page.wait_for_selector(".message:not(.streaming) strong:text('first')")
    assert chat.page.get_attribute(".message.assistant", "aria-busy") == "false"
    chat.until("document.getElementById('announcer').textContent === 'nanochat: The first half.'")


@pytest.mark.parametrize("stop", ["Escape", "button", "command"])
def test_an_answer_can_be_stopped_in_the_middle(chat, stub, stop):
    chat.type(stub.say("Slow", "As far as here", {"pause": True}, " and on."))
    chat.page.wait_for_selector(".markdown:has-text('As far as here')")
    if stop == "Escape":
        chat.press("Escape")
    elif stop == "button":
        chat.button("Stop the answer").click()
    else:
        chat.type("/stop")
    chat.page.wait_for_selector(".facts:has-text('stopped')")
    assert chat.answer() == "As far as here"
    assert stub.gone.wait(10), "the server still writes"
    chat.ask("Again")
    assert stub.asked[-1]["messages"][1] == {"role": "assistant", "content": "As far as here"}


def test_a_message_waits_in_the_field_while_an_answer_comes(chat, stub):
    chat.type(stub.say("Slow", "Wait", {"pause": True}))
    chat.page.wait_for_selector(".markdown:has-text('Wait')")
    chat.type("impatient")
    assert chat.page.input_value("#field") == "impatient"
    stub.go_on.set()
    chat.page.wait_for_selector(".streaming", state="detached")
    assert len(stub.asked) == 1


def test_an_edited_question_stands_beside_the_first_and_both_are_kept(chat, stub):
    chat.ask("One", "First answer")
    chat.ask("Two", "Second answer")
    chat.page.locator(".message.user").first.hover()
    chat.button("Edit and send again").first.click()
    chat.page.keyboard.press("Control+a")
    chat.page.keyboard.type("Uno")
    chat.press("Enter")
    chat.page.wait_for_selector(".markdown:has-text('You said: Uno')")
    assert stub.asked[-1]["messages"] == [{"role": "user", "content": "Uno"}]
    assert chat.texts(".bubble") == ["Uno"]
    assert chat.texts(".count") == ["version\n2/2"]
    chat.button("Earlier question").click()
    assert chat.texts(".bubble") == ["One", "Two"]
    assert chat.texts(".markdown") == ["First answer", "Second answer"]
    chat.page.reload()
    chat.page.wait_for_selector(".bubble")
    assert chat.texts(".bubble") == ["One", "Two"], "the choice is kept"
    chat.button("Later question").click()
    assert chat.texts(".bubble") == ["Uno"]


def test_the_last_message_is_edited_with_the_arrow_and_left_with_escape(chat, stub):
    chat.ask("One")
    chat.press("ArrowUp")
    assert chat.page.evaluate("document.activeElement.value") == "One"
    chat.press("Escape")
    assert chat.page.locator(".edit").count() == 0
    assert chat.texts(".bubble") == ["One"]
    assert len(stub.asked) == 1


def test_another_answer_stands_beside_the_first(chat, stub):
    chat.ask("Roll", "a one")
    stub.say("Roll", "a six")
    chat.button("Answer again").click()
    chat.page.wait_for_selector(".markdown:has-text('a six')")
    chat.page.wait_for_selector(".streaming", state="detached")
    assert chat.texts(".count") == ["version\n2/2"]
    chat.ask("Which?")
    assert [message["content"] for message in stub.asked[-1]["messages"]] == ["Roll", "a six", "Which?"]
    chat.button("Earlier answer").click()
    assert chat.texts(".markdown") == ["a one"], "what followed the other answer belongs to that"
    chat.ask("Which?")
    assert [message["content"] for message in stub.asked[-1]["messages"]] == ["Roll", "a one", "Which?"]


def test_an_answer_goes_on_while_another_conversation_is_open(chat, stub):
    chat.type(stub.say("Slow", "Begun", {"pause": True}, " and ended."))
    chat.page.wait_for_selector(".markdown:has-text('Begun')")
    chat.press("Control+k")
    assert chat.page.locator(".running").count() == 1
    chat.ask("Meanwhile", "something else")
    stub.go_on.set()
    chat.page.wait_for_selector(".running", state="detached")
    chat.button("Slow").click()
    assert chat.answer() == "Begun and ended."


def test_what_the_server_left_out_or_cut_off_is_said(chat, stub):
    chat.type("/maxtokens 5")
    chat.ask("Much", "word " * 5, {"finish": "length", "forgotten_turns": 1})
    assert chat.texts(".note") == [
        "Cut off at your limit of 5 tokens. Change the limit",
        "The conversation is longer than the model reads: its first 1 turn was left out.",
    ]
    chat.button("Change the limit").click()
    assert chat.page.evaluate("document.activeElement.id") == "set-max_tokens"


def test_the_newest_is_followed_until_the_reader_scrolls_up(chat, stub):
    chat.type(stub.say("Long", "line\n\n" * 60, {"pause": True}, "line\n\n" * 60 + "the end"))
    chat.page.wait_for_selector(".markdown p:nth-of-type(60)")
    distance = "(() => { const s = document.getElementById('scroller'); return s.scrollHeight - s.clientHeight - s.scrollTop; })()"
    chat.until(f"{distance} < 2")
    chat.page.mouse.move(700, 300)
    chat.page.mouse.wheel(0, -300)
    chat.until(f"{distance} > 200")
    stub.go_on.set()
    chat.page.wait_for_selector(".markdown :text('the end')")
    assert chat.page.evaluate(distance) > 500, "it ran after the newest"
    chat.button("To the newest").click()
    chat.until(f"{distance} < 2")
    assert chat.page.is_hidden("#jump")


def test_enter_of_an_input_method_does_not_send(chat, stub):
    chat.page.fill("#field", "にほん")
    composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    chat.page.evaluate(f"document.getElementById('field').dispatchEvent({composing})")
    assert chat.page.input_value("#field") == "にほん"
    chat.press("Shift+Enter")
    assert chat.page.input_value("#field") == "にほん\n"
    chat.press("Enter")
    chat.page.wait_for_selector(".bubble")
    assert stub.asked[-1]["messages"][0]["content"] == "にほん"


def test_a_conversation_needs_no_pointer(chat, stub):
    assert chat.page.evaluate("document.querySelector('a[href], button, textarea').className") == "skip"
    chat.page.locator(".skip").focus()
    chat.press("Enter")
    assert chat.page.evaluate("document.activeElement.id") == "field"
    chat.page.keyboard.type("By keys")
    chat.press("Enter")
    chat.page.wait_for_selector(".facts")
    chat.page.evaluate("document.activeElement.blur()")
    chat.page.keyboard.type("letters go to the field")
    assert chat.page.input_value("#field") == "letters go to the field"
    chat.press("Control+,")
    assert chat.page.is_visible("#settings")
    chat.press("Escape")
    assert chat.page.is_hidden("#settings")
    chat.press("Control+b")
    assert chat.page.is_hidden("#sidebar")
    chat.press("Control+b")
    chat.press("Control+k")
    assert chat.page.locator(".message").count() == 0
    chat.page.locator("#conversations .title").focus()
    chat.press("F2")
    chat.page.keyboard.type("Renamed")
    chat.press("Enter")
    assert chat.page.evaluate("document.activeElement.textContent") == "Renamed"
    chat.press("Delete")
    assert chat.page.locator("#conversations .title").count() == 0


def test_a_long_answer_costs_no_more_than_its_length(chat, stub):
    """Elements that are made while 400 paragraphs come in 400 pieces; all again with every piece would be 80,000."""
    chat.page.evaluate(
        "window.made = 0; new MutationObserver((all) => all.forEach((each) => (made += each.addedNodes.length)))"
        ".observe(document.getElementById('thread'), {childList: true, subtree: true})"
    )
    chat.ask("Long", *[f"Paragraph {index} has some words.\n\n" for index in range(400)])
    assert chat.page.locator(".markdown p").count() == 400
    assert chat.page.evaluate("made") < 3000
