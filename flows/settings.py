"""What the surroundings say: read once from the environment into one frozen dataclass, and nowhere else in the flows.

    NANOCHAT_HOME       work, logs, default store and the embedded services' data (.nanochat in the current directory)
    NANOCHAT_STORE      file:// or s3:// (HOME/store)
    NANOCHAT_CACHE_GB   size limit of the local cache of a remote store (50)
    MLFLOW_TRACKING_URI MLflow (SQLite in HOME)
    PREFECT_API_URL     Prefect's server (one of our own, started in the background and reused)

It connects to nothing.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where things are."""

    home: Path
    store: str
    cache_bytes: int
    tracking_uri: str
    prefect_api_url: str

    @property
    def checkout(self) -> Path:
        """The root of the project's files."""
        return Path(__file__).parents[1]


def read(environment: Mapping[str, str] = os.environ, *, home: Path | None = None, store: str = "") -> Settings:
    """Settings from the environment; arguments go before it. ValueError names what is wrong."""
    where = (home or Path(environment.get("NANOCHAT_HOME", ".nanochat"))).absolute()
    size = environment.get("NANOCHAT_CACHE_GB", "50")
    try:
        cache_bytes = int(float(size) * GIB)
    except ValueError:
        raise ValueError(f"NANOCHAT_CACHE_GB = {size!r}: needs a number of gibibytes") from None
    return Settings(
        home=where,
        store=store or environment.get("NANOCHAT_STORE", "") or f"file://{where / 'store'}",
        cache_bytes=cache_bytes,
        tracking_uri=environment.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{where / 'mlflow.db'}",
        prefect_api_url=environment.get("PREFECT_API_URL", ""),
    )
