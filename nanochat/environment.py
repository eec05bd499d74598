"""The user's own environment variables, read by one reader: empty is unset, blanks around a value do not count.

    NANOCHAT_HOME       work, logs, default store and the embedded services' data (.nanochat in the current directory)
    NANOCHAT_STORE      a folder, file:// or s3:// (HOME/store)
    NANOCHAT_CACHE_GB   size limit of the local cache of a remote store (50)
    MLFLOW_TRACKING_URI MLflow (SQLite in HOME)
    PREFECT_API_URL     Prefect's server (one of our own, started in the background and reused)

Marks by which our own processes know each other, and what torchrun sets, are no settings and are not read here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from nanochat.locations import folder

Environment = Mapping[str, str]
GIB = 2**30
HOME = ".nanochat"
CACHE_GB = 50.0


def text(name: str, default: str = "", environment: Environment = os.environ) -> str:
    """The variable, stripped; the default where it is not there or empty."""
    return environment.get(name, "").strip() or default


def fill(values: Mapping[str, str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets the variables that are not there or empty; what the user has set stays."""
    environment.update({name: text(name, value, environment) for name, value in values.items()})


def home(environment: Environment = os.environ) -> Path:
    """NANOCHAT_HOME with `~` expanded, or `.nanochat` in the current directory."""
    return folder(text("NANOCHAT_HOME", HOME, environment))


def store(environment: Environment = os.environ) -> str:
    """NANOCHAT_STORE; empty: the folder `store` of the home."""
    return text("NANOCHAT_STORE", "", environment)


def cache_bytes(environment: Environment = os.environ) -> int:
    """NANOCHAT_CACHE_GB in bytes. ValueError for what is no size."""
    given = text("NANOCHAT_CACHE_GB", str(CACHE_GB), environment)
    try:
        size = float(given)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise ValueError(f"NANOCHAT_CACHE_GB = {given!r}: give a number of gibibytes, 0 or more (default {CACHE_GB:g})")
    return int(size * GIB)
