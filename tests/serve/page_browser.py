"""Fixtures of the page's tests: headless Chromium, the scripted server, and a page that is open on it.

Promises: a test fails if the page logs an error, throws, asks another host for anything or breaks the server's policy
on content. Pictures go to $NANOCHAT_SHOTS if that is set, else to the test's own temporary folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.serve.page_stub import page_stub

SCREEN = {"width": 1280, "height": 820}
PATIENCE = 15  # s


class Chat:
    """A page with the words of a person for what can be done on it."""

    def __init__(self, page, stub, shots: Path):
        self.page, self.stub, self.shots = page, stub, shots
        self.problems: list[str] = []
        self.refusals_are_meant = False  # Chromium logs each as an error
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self.logged)
        page.on("request", self.requested)

    def logged(self, message):
        if message.type in ("error", "warning") and not self.refusals_are_meant:
            self.problems.append(message.text)

    def requested(self, request):
        if not request.url.startswith((self.stub.url + "/", f"blob:{self.stub.url}")):
            self.problems.append(f"a request to {request.url}")

    def visit(self, fragment=""):
        self.page.goto(f"{self.stub.url}/{fragment}")
        self.page.wait_for_selector("#model-name:not(:text-is('…'))")
        return self

    def type(self, text):
        self.page.fill("#field", text)
        self.page.press("#field", "Enter")

    def ask(self, text, *steps):
        """Asks, and waits for the end of the answer."""
        if steps:
            self.stub.say(text, *steps)
        before = len(self.stub.asked)
        self.type(text)
        self.page.wait_for_selector(".message.assistant")
        self.page.wait_for_selector(".streaming", state="detached")
        assert len(self.stub.asked) > before
        return self.answer()

    def answer(self):
        return self.page.locator(".message.assistant .markdown").last.inner_text()

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()

    def press(self, key):
        self.page.keyboard.press(key)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def until(self, expression):
        """Waits until JavaScript says yes; asked from outside, as the policy forbids the page to evaluate text."""
        for _ in range(PATIENCE * 50):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"never: {expression}")

    def shot(self, name):
        self.page.wait_for_timeout(300)  # what slides in is there
        self.page.screenshot(path=self.shots / f"{name}.png")


@pytest.fixture(scope="module")  # not longer: while it lives, its event loop runs in this thread
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stub():
    with page_stub() as running:
        yield running


@pytest.fixture
def shots(tmp_path):
    folder = Path(os.environ.get("NANOCHAT_SHOTS") or tmp_path / "shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_chat(chromium, stub, shots):
    """open_chat(**settings of the browser's context) -> Chat; open_chat(beside=chat) is another tab."""
    contexts, chats = [], []

    def opened(beside=None, fragment="", **settings):
        if beside is None:
            contexts.append(chromium.new_context(**{"viewport": SCREEN, **settings}))
        context = beside.page.context if beside else contexts[-1]
        context.set_default_timeout(PATIENCE * 1000)
        chats.append(Chat(context.new_page(), stub, shots))
        return chats[-1].visit(fragment)

    yield opened
    for context in contexts:
        context.close()
    assert [chat.problems for chat in chats if chat.problems] == []


@pytest.fixture
def chat(open_chat):
    return open_chat()
