"""Commands after a /, and the drawer of settings: what they set is what the server is asked for."""

import pytest

pytest_plugins = ["tests.serve.page_browser"]


def said(chat):
    return chat.page.locator(".said").inner_text()


@pytest.mark.parametrize(
    ("command", "field", "value"),
    [
        ("/temperature 0.3", "temperature", 0.3), ("/topk 7", "top_k", 7), ("/topp 0.9", "top_p", 0.9), ("/minp .05", "min_p", 0.05),
        ("/penalty 1.2", "repetition_penalty", 1.2), ("/maxtokens 64", "max_tokens", 64), ("/seed 11", "seed", 11), ("/TEMPERATURE 0", "temperature", 0),
    ],
)  # fmt: skip
def test_a_command_sets_what_the_server_is_asked_for(chat, stub, command, field, value):
    chat.type(command)
    assert str(value) in said(chat)
    chat.page.reload()
    chat.ask("Hello")
    assert stub.asked[-1][field] == value
    chat.type(f"{command.split()[0]} default")
    chat.ask("Again")
    assert field not in stub.asked[-1]
    assert len(stub.asked) == 2, "no command went to the model"


@pytest.mark.parametrize(
    "command",
    [
        "/temperature 3",
        "/temperature hot",
        "/topk 0",
        "/topk 2.5",
        "/seed -1",
        "/maxtokens 1e3",
        "/topp 0",
        "/penalty NaN",
        "/export pdf",
        "/theme red",
        "/model none",
    ],
)
def test_a_value_that_cannot_be_used_changes_nothing_and_is_said(chat, command):
    chat.type(command)
    assert command.split()[1] in said(chat)
    kept = chat.page.evaluate("localStorage['nanochat.settings']")
    assert kept is None or command.split()[1] not in kept


def test_an_unknown_command_does_not_go_to_the_model(chat, stub):
    chat.type("/tempratur 1")
    assert "There is no command /tempratur." in said(chat)
    for name in ("/temperature", "/topk", "/clear", "/help", "/new", "/stop", "/export", "/model"):
        assert name in said(chat)
    assert stub.asked == []
    chat.ask(" /etc/hosts is a file")
    assert stub.asked[-1]["messages"][0]["content"] == "/etc/hosts is a file"
    assert chat.page.locator(".said").count() == 0, "what a command said is gone with the next message"


def test_help_names_the_commands_and_the_keys(chat):
    chat.type("/help")
    for words in ("/temperature", "/topk", "/clear", "/help", "Shift+Enter", "Ctrl+K"):
        assert words in said(chat)


def test_clear_begins_anew_and_can_be_undone(chat, stub):
    chat.ask("Remember 7")
    chat.type("/clear")
    assert chat.page.locator(".message").count() == 0
    chat.ask("What was it?")
    assert len(stub.asked[-1]["messages"]) == 1
    chat.button("Undo").click()
    assert chat.texts(".bubble") == ["Remember 7"]


def test_commands_are_completed(chat, stub):
    chat.page.keyboard.type("/")
    assert chat.page.is_visible("#commands")
    chat.page.keyboard.type("te")
    assert chat.texts("#commands code") == ["/temperature"]
    chat.press("Tab")
    assert chat.page.input_value("#field") == "/temperature "
    chat.page.keyboard.type("0.5")
    chat.press("Enter")
    assert "0.5" in said(chat)
    chat.page.keyboard.type("/he")
    chat.press("Enter")
    assert "Keys" in said(chat)
    chat.page.keyboard.type("/")
    chat.press("ArrowUp")
    active = chat.page.get_attribute("#field", "aria-activedescendant")
    assert chat.page.locator(f"#{active}").inner_text().startswith("/settings")
    chat.press("Escape")
    assert chat.page.is_hidden("#commands")
    assert chat.page.input_value("#field") == "/"


def test_the_drawer_sets_what_the_server_is_asked_for(chat, stub):
    chat.button("Settings").click()
    chat.page.get_by_label("System message").fill("Be brief.")
    chat.page.get_by_label("Temperature", exact=True).fill("0.25")
    chat.page.get_by_label("Top k").fill("many")
    chat.page.get_by_label("Seed").fill("3")
    chat.press("Tab")
    assert chat.texts(".wrong:visible") == ["Top k needs a whole number of at least 1, or “default”; “many” is not."]
    chat.page.get_by_label("Top p, slider").focus()
    chat.press("ArrowLeft")
    chat.press("Escape")
    chat.ask("Hello")
    asked = stub.asked[-1]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["seed"], asked["top_p"]) == (0.25, 3, 0.99)
    assert "top_k" not in asked
    chat.button("Settings").click()
    chat.button("Back to the defaults").click()
    chat.press("Escape")
    chat.ask("Again")
    assert stub.asked[-1]["messages"][0]["role"] == "user"
    assert not {"temperature", "seed", "top_p"} & stub.asked[-1].keys()


def test_of_several_models_one_is_chosen(open_chat, stub):
    from tests.serve.page_stub import CARD

    stub.cards = [CARD, {**CARD, "id": "small", "context": 1024, "defaults": {"temperature": 0.7}}]
    chat = open_chat()
    chat.type("/model small")
    assert "Model: small" in said(chat)
    chat.ask("Hello")
    assert stub.asked[-1]["model"] == "small"
    assert chat.texts("#context") == ["31 of 1024 tokens"]
    chat.page.click("#model")
    assert chat.page.get_by_label("Temperature", exact=True).get_attribute("placeholder") == "0.7"
    chat.page.select_option("#set-model", "tiny")
    chat.press("Escape")
    chat.ask("Again")
    assert stub.asked[-1]["model"] == "tiny"


def test_another_tab_takes_over_the_settings(open_chat):
    one = open_chat()
    two = open_chat(beside=one)
    one.type("/theme dark")
    two.page.wait_for_selector("html[data-theme=dark]")
    two.page.reload()
    assert two.page.get_attribute("html", "data-theme") == "dark"
