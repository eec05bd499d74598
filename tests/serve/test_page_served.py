"""The page and the server together: the files as they are served, and a person who talks to a real model in a browser.

The page by itself has tests of its own over a scripted server (test_page*.py).
"""

import httpx
import pytest

from nanochat.serve import page_files
from tests.serve.server import START, make_model, served, until

pytest_plugins = ["tests.serve.page_browser"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(make_model(tmp_path_factory.mktemp("table"))) as server:
        yield server


@pytest.fixture
def stub(server):
    """What the page is opened on."""
    return server


def test_every_file_of_the_page_is_served_with_its_type_and_its_policy(server):
    names = {path.name: path for path in page_files.FOLDER.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= set(names)
    with httpx.Client(base_url=server.url) as client:
        for name, path in names.items():
            answer = client.get("/" if name == "index.html" else f"/{name}")
            assert answer.content == path.read_bytes()
            assert answer.headers["content-type"].split(";")[0] == page_files.TYPES[path.suffix]
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            known = client.get(answer.request.url, headers={"if-none-match": answer.headers["etag"]})
            assert (known.status_code, known.content) == (304, b"")
        for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/page/app.js", "/app.py"):
            assert client.get(path).status_code == 404


def said(chat, text):
    before = chat.page.locator(".message.assistant").count()
    chat.type(text)
    chat.until(f"document.querySelectorAll('.message.assistant').length > {before}")
    chat.page.wait_for_selector(".streaming", state="detached")
    return chat.answer()


def test_a_person_talks_to_a_model_that_calls_the_calculator(chat, server):
    metrics = server.serving.metrics.counters["answers_total"]
    before = metrics.get((("finish", "stop"),), 0)
    assert said(chat, "What is 6*7?").split() == ["calculator:", "6*7", "=", "42", "OK."]
    assert chat.texts(".tool code") == ["6*7"]
    assert chat.texts(".tool b") == ["42"]
    assert said(chat, "And again?").endswith("OK.")
    assert metrics[(("finish", "stop"),)] == before + 2
    asked = len("What is 6*7?") + len("And again?") + 2 * 4 - 1
    answers = 2 * (len("6*7") + len("42") + 4 + len("OK.") + 1)
    assert chat.texts("#context") == [f"{asked + answers} of 512 tokens"]


def test_when_the_context_is_full_the_page_says_what_was_forgotten(chat):
    for number in range(3):
        said(chat, f"{number} " + "x" * 150)
    assert "left out" in said(chat, "y" * 150) or chat.texts(":text('left out')")


@pytest.mark.parametrize("way", ["stop", "leave"])
def test_an_answer_that_is_stopped_frees_its_row(chromium, tmp_path, way):
    with served(make_model(tmp_path, 4096, [[START, *b"abca"]])) as endless:
        page = chromium.new_page()
        page.goto(endless.url)
        page.wait_for_selector("#model-name:not(:text-is('…'))")
        page.fill("#field", "Go on")
        page.press("#field", "Enter")
        page.wait_for_selector(".markdown:has-text('bcabca')")
        assert endless.rows() == 1
        if way == "stop":
            page.keyboard.press("Escape")
        else:
            page.close()
        until(lambda: endless.rows() == 0)
        page.close()
