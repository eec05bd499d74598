"""Texts without secrets: what a URL carries beside its place is not written down.

Promises: user, password and the values of a query string are replaced by `***` in every URL of a text; all else stays.
"""

import re
from collections.abc import Mapping
from typing import Any

from nanochat.locations import INDEX

_SCHEME = r"[a-zA-Z][a-zA-Z0-9+.-]*://"
# A password may hold / ? # and blanks, as SQLAlchemy takes it: whatever stands between `user:` and `@`, but for a port.
_LOOSE = r"[^\s/:@'\"\[]*:(?=\S)(?!\d+(?:[/?#\s'\",;:)\]]|$))[^\n@]*@(?:\S*@)?"
_USER = re.compile(rf"({_SCHEME})(?:{_LOOSE}|[^/?#\s'\"]*@)")
_QUERY = re.compile(rf"({_SCHEME}[^\s'\"?#]*\?)((?:[^\s'\"#]|'(?=[\w%&=]))+)")
_FRAGMENT = re.compile(rf"({_SCHEME}[^\s'\"#]*#[^\s'\"#=]*=)[^\s'\"]+")
_FOLDERS = ("s3://", "file://")  # there `?` is a letter of a name


def redacted(text: str) -> str:
    """The text with the user info and the query values of its URLs replaced by `***`."""
    text = _USER.sub(r"\1***@", text)
    return _FRAGMENT.sub(r"\1***", _QUERY.sub(_without_values, text))


def _without_values(found: re.Match[str]) -> str:
    words = found[2].split("&")
    return found[1] + "&".join(_without_value(word, found[1].startswith(_FOLDERS)) for word in words)


def _without_value(word: str, of_folder: bool) -> str:
    name, equals, value = word.partition("=")
    if INDEX.fullmatch(value or name) or (of_folder and not equals):
        return word
    return f"{name}=***" if equals else "***"


def bare(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs as they are written down: texts redacted. No address has a URL in it, so that signing one changes none."""
    return {name: redacted(value) if isinstance(value, str) else value for name, value in knobs.items()}
