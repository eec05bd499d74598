"""What every room may raise or say: `Interrupted`, and the words for names and values that are refused.

Standard library only; it imports nothing of the project.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LARGEST = 2**53 - 1  # of an integer knob: what JSON readers of any language keep exactly (RFC 8259, section 6)


class Interrupted(Exception):
    """A stage was asked to stop, saved what it had and wants to be started again (exit code 75)."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {shortened(name)}: {hint}there is {', '.join(names)}"


def shortened(value: Any, length: int = 80) -> str:
    """A value as an error quotes it: `repr`, cut where it is long."""
    said = repr(value) if not isinstance(value, int) or abs(value) <= LARGEST else "a number too large"
    return said if len(said) <= length else f"{said[:length]}… ({len(said)} characters)"
