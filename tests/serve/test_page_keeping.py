"""What the page keeps in the browser, what it gives out and takes in, and what it says where something goes wrong."""

import json

import pytest

pytest_plugins = ["tests.serve.page_browser"]

KEY = "nanochat.conversation."


def stored(chat):
    """The conversations in the browser's storage."""
    texts = chat.page.evaluate(
        f"Object.keys(localStorage).filter((key) => key.startsWith('{KEY}')).map((key) => localStorage[key])"
    )
    return [json.loads(text) for text in texts]


def titles(chat):
    return chat.texts("#conversations .title")


def toast(chat):
    chat.page.wait_for_selector(".toast")
    return chat.texts(".toast p")[-1]


def test_a_reload_shows_the_same_conversation(chat):
    chat.ask("What is 12 * 34?", ("12*34", "408"), "408")
    chat.press("Control+k")
    chat.ask("Another")
    chat.page.reload()
    chat.page.wait_for_selector(".bubble")
    assert chat.texts(".bubble") == ["Another"]
    assert titles(chat) == ["Another", "What is 12 * 34?"]
    chat.button("What is 12 * 34?").click()
    assert chat.texts(".tool b") == ["408"]
    assert chat.texts(".facts") == ["2 tokens · 43 tokens/s · 0.8 s"]
    chat.page.go_back()
    chat.page.wait_for_selector(".bubble:text('Another')")


def test_a_reload_in_the_middle_keeps_what_had_come(chat, stub):
    chat.type(stub.say("Slow", "As far as here", {"pause": True}))
    chat.page.wait_for_selector(".markdown:has-text('As far as here')")
    chat.page.reload()
    chat.page.wait_for_selector(".trouble")
    assert chat.answer() == "As far as here"
    assert "The page was left before the answer was whole." in chat.texts(".trouble")[0]
    stub.say("Slow", "All of it")
    chat.button("Try again").click()
    chat.page.wait_for_selector(".markdown:has-text('All of it')")
    assert chat.texts(".count") == ["version\n2/2"]


def test_a_connection_that_breaks_keeps_what_had_come_and_can_be_tried_again(chat, stub):
    chat.refusals_are_meant = True
    chat.type(stub.say("Cut", "This is the **part", {"pause": True}, {"cut": True}))
    chat.page.wait_for_selector(".markdown:has-text('part')")
    stub.go_on.set()
    chat.page.wait_for_selector(".trouble :text('The connection broke off before the answer was whole.')")
    assert chat.answer() == "This is the **part"
    stub.say("Cut", "whole")
    chat.button("Try again").click()
    chat.page.wait_for_selector(".markdown:has-text('whole')")
    assert chat.page.locator(".trouble").count() == 0
    chat.button("Earlier answer").click()
    assert chat.answer() == "This is the **part"


def test_an_answer_without_an_end_is_no_short_answer(chat, stub):
    chat.type(stub.say("Ask", "This seems whole", {"leave": True}))
    chat.page.wait_for_selector(".trouble :text('The connection broke off before the answer was whole.')")
    assert chat.answer() == "This seems whole"


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (400, "temperature: must be at most 2", "Temperature: must be at most 2."), (404, "there is no model 'x' here", "There is no model 'x' here."),
        (413, "the body is too large", "The body is too large."), (500, "", "The server refused, with status 500."), (503, "", "The server is not ready."),
    ],
)  # fmt: skip
def test_a_refusal_is_a_sentence_with_a_way_on(chat, stub, status, message, said):
    chat.refusals_are_meant = True
    stub.refusals.append((status, message, {}))
    chat.type("Hello")
    chat.page.wait_for_selector(f'.trouble p:text-is("{said}")')
    chat.button("Try again").click()
    chat.page.wait_for_selector(".markdown:has-text('You said: Hello')")
    assert chat.page.locator(".count").count() == 0, "an answer that never came is no version"


def test_an_error_within_an_answer_is_said(chat, stub):
    chat.type(stub.say("Ask", "Half", {"error": "the replica was lost"}))
    chat.page.wait_for_selector(".trouble :text('The replica was lost.')")
    assert chat.answer() == "Half"


def test_after_an_answer_that_never_came_the_turns_still_alternate(chat, stub):
    chat.refusals_are_meant = True
    chat.ask("One")
    stub.refusals.append((400, "no", {}))
    chat.type("Two")
    chat.page.wait_for_selector(".trouble")
    chat.ask("Three")
    assert [message["role"] for message in stub.asked[-1]["messages"]] == ["user", "assistant", "user"]


def test_a_busy_server_is_asked_once_more_after_the_time_it_names(chat, stub):
    chat.refusals_are_meant = True
    stub.refusals.append((429, "busy", {"retry_after": "1"}))
    chat.type("Hello")
    chat.page.wait_for_selector(".trouble :text('The server is busy. Trying again in 1 s.')")
    chat.page.wait_for_selector(".markdown:has-text('You said: Hello')")
    assert len(stub.asked) == 2
    stub.refusals += [(429, "still busy", {"retry_after": "1"})] * 2
    chat.type("Again")
    chat.page.wait_for_selector(".trouble :text('Still busy.')")
    assert len(stub.asked) == 4


def test_waiting_for_a_busy_server_can_be_cancelled(chat, stub):
    chat.refusals_are_meant = True
    stub.refusals.append((429, "busy", {"retry_after": "600"}))
    chat.type("Hello")
    chat.page.wait_for_selector(".trouble :text('Trying again in 600 s.')")
    chat.button("Cancel").click()
    chat.page.wait_for_selector(".note:text('Stopped before the first word.')")
    assert len(stub.asked) == 1


def test_a_key_is_asked_for_and_lives_as_long_as_the_tab(chat, stub):
    chat.refusals_are_meant = True
    stub.key = "sesame"
    chat.page.reload()
    chat.page.wait_for_selector("#key-dialog :text('A key is needed') ~ :text('The server wants a key.')")
    chat.press("Escape")
    chat.page.wait_for_selector("#model-name:text('needs a key')")
    chat.type("Hello")
    chat.page.wait_for_selector("#key-dialog[open]")
    chat.page.wait_for_timeout(500)  # a person does not type before the field is there
    chat.page.keyboard.type("wrong")
    chat.press("Enter")
    chat.page.wait_for_timeout(1000)
    chat.page.wait_for_selector("#key-dialog[open]")
    chat.page.keyboard.type("sesame")
    chat.press("Enter")
    chat.page.wait_for_selector(".markdown:has-text('You said: Hello')")
    chat.page.wait_for_selector("#model-name:text('tiny')")
    assert "sesame" not in chat.page.evaluate("JSON.stringify(localStorage)")
    chat.page.reload()
    chat.page.wait_for_selector("#model-name:text('tiny')")


def test_two_tabs_keep_the_messages_of_both(open_chat):
    one = open_chat()
    one.ask("From the first")
    two = open_chat(beside=one, fragment=one.page.evaluate("location.hash"))
    assert two.texts(".bubble") == ["From the first"]
    two.ask("From the second")
    one.page.wait_for_selector(".bubble:text('From the second')")
    one.ask("From the first again")
    two.page.wait_for_selector(".bubble:text('From the first again')")
    [conversation] = stored(one)
    assert len(conversation["messages"]) == 6
    two.press("Control+k")
    two.ask("Elsewhere")
    one.page.wait_for_selector("#conversations .title:has-text('Elsewhere')")


def test_what_one_tab_deletes_another_does_not_bring_back(open_chat):
    one = open_chat()
    one.ask("Hello")
    two = open_chat(beside=one, fragment=one.page.evaluate("location.hash"))
    two.type("/clear")
    one.page.wait_for_selector(".toast :text('This conversation was deleted in another tab.')")
    assert one.texts(".bubble") == []
    assert stored(one) == []


def test_a_tab_writes_over_nothing_that_it_has_not_heard_of_yet(chat):
    """As if the other tab had written in the same moment: no event has come."""
    chat.ask("Mine")
    [conversation] = stored(chat)
    question = {**conversation["messages"][0], "id": "theirs", "parent": conversation["messages"][1]["id"]}
    conversation["messages"].append(question)
    chat.page.evaluate(
        "([key, text]) => localStorage.setItem(key, text)", [KEY + conversation["id"], json.dumps(conversation)]
    )
    chat.ask("Mine again")
    [conversation] = stored(chat)
    assert "theirs" in [message["id"] for message in conversation["messages"]]


def test_what_was_deleted_before_this_tab_heard_of_it_does_not_come_back_by_itself(chat):
    chat.ask("Hello")
    chat.page.evaluate("Object.keys(localStorage).forEach((key) => localStorage.removeItem(key))")
    chat.type("Still there?")
    chat.page.wait_for_selector(".toast :text('This conversation was deleted in another tab.')")
    assert stored(chat) == []
    chat.button("Undo").click()
    assert chat.texts(".bubble") == ["Hello", "Still there?"], "what was just written is not lost"
    assert len(stored(chat)) == 1


def test_a_conversation_is_renamed_deleted_and_had_back(chat):
    chat.ask("First")
    chat.press("Control+k")
    chat.ask("Second")
    chat.page.locator("#conversations li", has_text="First").hover()
    chat.button("Rename “First”").click()
    chat.page.keyboard.type("The beginning")
    chat.press("Enter")
    assert titles(chat) == ["The beginning", "Second"]
    chat.page.locator("#conversations li", has_text="The beginning").hover()
    chat.button("Delete “The beginning”").click()
    assert titles(chat) == ["Second"]
    assert len(stored(chat)) == 1
    chat.button("Undo").click()
    assert titles(chat) == ["The beginning", "Second"]
    assert chat.texts(".bubble") == ["First"]
    assert len(stored(chat)) == 2


def test_all_are_deleted_only_after_a_yes_and_can_be_had_back(chat):
    for text in ("One", "Two", "Three"):
        chat.press("Control+k")
        chat.ask(text)
    chat.press("Control+,")
    chat.button("Delete all").click()
    chat.page.wait_for_selector("#confirm :text('Delete all 3 conversations?')")
    chat.press("Escape")
    assert len(stored(chat)) == 3
    chat.button("Delete all").click()
    chat.page.locator("#confirm [data-yes]").click()
    chat.page.wait_for_selector("#conversations .hint")
    assert stored(chat) == []
    chat.press("Escape")
    chat.button("Undo").click()
    assert len(stored(chat)) == 3


def saved(chat, act):
    """The text of the file that the browser saves, and its name."""
    with chat.page.expect_download() as download:
        act()
    return download.value.path().read_text(encoding="utf-8"), download.value.suggested_filename


def test_a_conversation_is_saved_as_markdown(chat):
    chat.ask("What is 12 * 34?", "It is ", ("12*34", "408"), "**408**")
    text, name = saved(
        chat, lambda: (chat.page.click("#more"), chat.page.get_by_role("menuitem", name="Save as Markdown").click())
    )
    assert name == "what-is-12-34.md"
    assert text == "# What is 12 * 34?\n\n## You\n\nWhat is 12 * 34?\n\n## nanochat\n\nIt is [12*34 = 408] **408**\n"


def test_what_is_exported_comes_back_whole_in_another_browser(open_chat, stub, tmp_path):
    one = open_chat()
    one.ask("Roll", "one", ("1+1", "2"))
    stub.say("Roll", "six")
    one.button("Answer again").click()
    one.page.wait_for_selector(".markdown:has-text('six')")
    one.page.wait_for_selector(".streaming", state="detached")
    one.press("Control+,")
    text, name = saved(one, lambda: one.button("Export all").click())
    assert name.startswith("nanochat-")
    assert name.endswith(".json")
    (tmp_path / name).write_text(text, encoding="utf-8")
    two = open_chat()
    two.press("Control+,")
    for _ in range(2):  # twice is once
        two.page.set_input_files("input[type=file]", tmp_path / name)
        two.page.wait_for_selector(".toast :text('Imported 1 conversation.')")
    assert stored(two) == stored(one)
    two.press("Escape")
    two.button("Roll").click()
    assert two.texts(".markdown") == ["six"]
    two.button("Earlier answer").click()
    assert two.texts(".tool b") == ["2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "The file is no JSON"), ("[]", "The file holds no conversations"), ('{"format": "nanochat conversations", "conversations": [], "version": 2}', "of version 2"),
        ('{"format": "nanochat conversations", "version": 1, "conversations": [{"id": "a", "messages": [{"id": "b"}]}]}', "Conversation 1 of the file is broken"),
        ('{"format": "nanochat conversations", "version": 1, "conversations": [{"id": "__proto__", "messages": []}]}', "Conversation 1 of the file is broken"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_ours_is_refused(chat, tmp_path, text, said):
    (tmp_path / "file.json").write_text(text, encoding="utf-8")
    chat.press("Control+,")
    chat.page.set_input_files("input[type=file]", tmp_path / "file.json")
    assert said in toast(chat)
    assert stored(chat) == []


def test_messages_of_a_file_that_hang_on_nothing_are_not_shown(chat, tmp_path):
    messages = [
        {"id": name, "parent": parent, "role": "user", "parts": []}
        for name, parent in (("a", ""), ("b", "a"), ("c", "c"))
    ]
    file = {
        "format": "nanochat conversations",
        "version": 1,
        "conversations": [{"id": "x", "messages": messages, "chosen": {"": "b", "b": "a"}}],
    }
    (tmp_path / "file.json").write_text(json.dumps(file), encoding="utf-8")
    chat.press("Control+,")
    chat.page.set_input_files("input[type=file]", tmp_path / "file.json")
    chat.press("Escape")
    chat.button("New conversation").last.click()
    assert chat.page.locator(".message.user").count() == 2


def test_a_full_storage_is_said_and_loses_nothing_on_the_page(chat, stub):
    chat.page.evaluate(
        "for (let size = 2 ** 22; size >= 1; size /= 2) try { for (;;) localStorage.setItem('filling' + size + Math.random(), 'x'.repeat(size)) } catch {}"
    )
    assert chat.ask("Hello") == "You said: Hello"
    assert "The browser's storage is full" in toast(chat)
    assert chat.ask("Still here") == "You said: Still here"
    assert [message["content"] for message in stub.asked[-1]["messages"]] == ["Hello", "You said: Hello", "Still here"]
    assert chat.page.locator(".toast").count() == 1, "it is said once"
    chat.page.evaluate(
        "Object.keys(localStorage).filter((key) => key.startsWith('filling')).forEach((key) => localStorage.removeItem(key))"
    )
    chat.ask("Now there is room")
    assert len(stored(chat)[0]["messages"]) == 6


def test_what_cannot_be_read_in_the_storage_stops_nothing(chat):
    spoilt = {
        "nanochat.settings": '{"theme": 7, "temperature": "hot", "top_k": 3}',
        f"{KEY}a": "{",
        f"{KEY}b": "null",
        f"{KEY}c": '{"id": "d", "messages": []}',
    }
    chat.page.evaluate("(all) => Object.entries(all).forEach(([key, text]) => localStorage.setItem(key, text))", spoilt)
    chat.visit()
    chat.page.reload()
    chat.ask("Hello")
    assert titles(chat) == ["Hello"]
    assert chat.page.evaluate("localStorage['nanochat.conversation.a']") == "{", "it is not ours to throw away"


def test_without_storage_a_conversation_lasts_as_long_as_the_tab(chat, stub):
    chat.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('closed', 'SecurityError') }})"
    )
    chat.page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('closed', 'SecurityError') }})"
    )
    chat.visit("?")
    assert "This browser keeps no conversations" in toast(chat)
    chat.ask("Hello")
    chat.ask("Again")
    assert len(stub.asked[-1]["messages"]) == 3


def test_what_is_being_written_stays_with_its_conversation(chat):
    chat.ask("One")
    chat.page.fill("#field", "half a thought")
    chat.press("Control+k")
    assert chat.page.input_value("#field") == ""
    chat.button("One").click()
    assert chat.page.input_value("#field") == "half a thought"
    chat.page.reload()
    chat.page.wait_for_selector(".bubble")
    assert chat.page.input_value("#field") == "half a thought"
