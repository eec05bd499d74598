"""What the environment says, as one frozen dataclass; `nanochat/environment.py` lists and reads the variables.

It connects to nothing.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

from nanochat import environment as variables
from nanochat.locations import file_uri, folder, folder_of, is_bucket, sqlite_uri
from nanochat.redaction import redacted


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
    where = (folder(home) if home else variables.home(environment)).absolute()
    named = store.strip() or variables.store(environment)
    if named and not is_bucket(named):
        named = file_uri(folder_of(named))
    return Settings(
        home=where,
        store=named or file_uri(where / "store"),
        cache_bytes=variables.cache_bytes(environment),
        tracking_uri=variables.text("MLFLOW_TRACKING_URI", sqlite_uri(where / "mlflow.db"), environment),
        prefect_api_url=_prefect_api_url(environment),
    )


def _prefect_api_url(environment: Mapping[str, str]) -> str:
    url = variables.text("PREFECT_API_URL", "", environment)
    if url and not re.match(r"https?://[^/\s]", url):
        raise ValueError(
            f"PREFECT_API_URL = {redacted(url)!r}: give the address of a server, as http://HOST:4200/api, "
            "or leave it empty for one of our own"
        )
    return url
