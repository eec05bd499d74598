"""The page's files, as text: small, whole, nothing from elsewhere, nothing that could make an answer live."""

import re
import tomllib
from html.parser import HTMLParser

import pytest

from tests.paths import ROOT
from tests.serve.page_stub import PAGE, POLICY

FILES = sorted(path for path in PAGE.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
LIVE = (
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "eval(",
    "new Function",
    "DOMParser",
    "srcdoc",
    "createContextualFragment",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_small_and_names_no_other_host(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    if path.suffix != ".html":
        assert text.startswith(("//", "/*", "<svg")), "it opens with what it is and what it promises"
    addresses = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org"}  # the name of SVG's elements
    assert addresses == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_elements_of_text(path):
    text = path.read_text(encoding="utf-8")
    assert [word for word in LIVE if word in text] == []
    for name in re.findall(r'(?:from|import) "\./([^"]+)"', text):
        assert PAGE / name in SCRIPTS


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_document_has_nothing_that_the_policy_forbids():
    parser = Tags()
    parser.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    names = {path.name for path in FILES}
    ids = [attributes["id"] for _, attributes in parser.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parser.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        assert tag != "style"
        if tag == "script":
            assert attributes["src"] in names
        if tag == "link":
            assert attributes["href"] in names
        if tag == "use":
            assert attributes["href"].removeprefix("#") in ids
    assert "unsafe" not in POLICY


def test_every_drawing_that_a_script_names_is_there():
    document = (PAGE / "index.html").read_text(encoding="utf-8")
    drawn = set(re.findall(r'<symbol id="i-([a-z]+)"', document))
    text = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    named = set(re.findall(r'\b(?:icon|iconButton|button|show)\("([a-z]+)"', text)) | set(
        re.findall(r'#i-([a-z]+)"', text + document)
    )
    assert {"copy", "again", "calculator", "send", "stop"} <= named
    assert named <= drawn


def test_the_files_are_in_the_package():
    """They lie in no folder beneath, and none has a name that the pattern leaves out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["package-data"]["nanochat.serve"] == ["page/*"]
    assert sorted(path for path in PAGE.rglob("*") if not path.is_dir()) == FILES
    assert sum(path.stat().st_size for path in FILES) < 200_000
