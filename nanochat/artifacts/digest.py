"""Canonical JSON and its digest: what addresses are made of.

Promises: equal meaning gives equal text on every machine; what has no one stable form is refused.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
from typing import Any


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, finite numbers. TypeError for anything without one stable form."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value + 0.0  # -0.0 and 0.0 mean the same
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict | types.MappingProxyType) and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise TypeError(f"cannot be part of an address: {value!r} of type {type(value).__name__}")


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
