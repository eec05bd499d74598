"""Which model is to be served: a name, where its files lie, and what is known of it. It reads no model.

Not here: who knows (the command line, MLflow through flows/).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.artifacts.store import Store


@dataclass(frozen=True)
class Source:
    """A model as a person names it (an address, or models:/NAME@ALIAS), and as files."""

    name: str
    address: str
    directory: Path
    recipe: str | None = None
    created: int = 0

    @property
    def description(self) -> str:
        """A line for people."""
        made = time.strftime("%Y-%m-%d", time.gmtime(self.created)) if self.created else ""
        words = [self.address, f"of the recipe {self.recipe}" if self.recipe else "", f"made {made}" if made else ""]
        return ", ".join(filter(None, words))


Provider = Callable[[], Source]  # asked again and again; may read a disk or a network


def in_store(store: Store, address: str, name: str = "") -> Source:
    """An artifact of the store, fetched if it must be. ValueError: it is not there, or no model."""
    record = store.known(address)
    if "model.json" not in record["files"]:
        raise ValueError(f"{address} is no model: name one of a stage that trains, or none for the newest")
    facts: dict[str, Any] = record.get("facts", {})
    finished = int(record.get("finished", 0))
    return Source(name or address, address, store.fetch(address), facts.get("recipe"), finished)


def in_directory(directory: Path) -> Source:
    """Files that lie in a folder. ValueError: there is no model."""
    weights = directory / "model.json"
    if not weights.is_file():
        raise ValueError(f"no model in {directory}: there is no model.json")
    name = directory.resolve().name
    return Source(name, name, directory.resolve(), None, int(weights.stat().st_mtime))
