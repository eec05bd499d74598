"""Texts without secrets: what a URL carries beside its place is not written down.

Promises: user, password and the values of a query string are replaced by `***` in every URL of a text; all else stays.
"""

import re
from collections.abc import Mapping
from typing import Any

_USER = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/?#\s'\"]*@")
_QUERY = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"?]*\?)([^\s'\"#]+)")


def redacted(text: str) -> str:
    """The text with the user info and the query values of its URLs replaced by `***`."""
    text = _USER.sub(r"\1***@", text)
    return _QUERY.sub(lambda found: found[1] + re.sub(r"=[^&]*", "=***", found[2]), text)


def bare(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs as they are written down: texts redacted. No address has a URL in it, so that signing one changes none."""
    return {name: redacted(value) if isinstance(value, str) else value for name, value in knobs.items()}
