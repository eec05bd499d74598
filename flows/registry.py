"""Model versions: pointers into the store, one per chat stage, and the aliases that people load them by.

Promises: entering the same versions again changes nothing; a version loads (`models:/NAME@champion`) without a copy
of the weights and without pickle; `@candidate` is the newest, `@champion` moves only as the gate says, and every
verdict is a tag. It works through the client that track.py gives it, on that file's thread.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flows import gate
from nanochat.artifacts.store import Store
from nanochat.errors import shortened
from nanochat.locations import folder_of, is_bucket
from nanochat.redaction import redacted

ADDRESS, METRIC = "nanochat.address", "nanochat.metric."
log = logging.getLogger(__name__)
LOADER = "nanochat.inference.pyfunc"  # its `_load_pyfunc(directory)` gives what predicts


class Name(NamedTuple):
    """A model version as MLflow names it: models:/MODEL@ALIAS, or models:/MODEL/NUMBER."""

    model: str
    alias: str
    number: str

    @classmethod
    def of(cls, text: str) -> Name:
        """ValueError: it is no such name."""
        found = re.fullmatch(r"models:/([^/@]+)(?:@([\w.-]+)|/(\d+))", text)
        if found is None:
            raise ValueError(f"{shortened(text)} names no version: write models:/NAME@champion or models:/NAME/3")
        return cls(found[1], found[2] or "", found[3] or "")

    def address(self, client: Any) -> str:
        """The artifact that the version stands for. Raises what MLflow raises, and ValueError: it is none of ours."""
        ask = client.get_model_version_by_alias if self.alias else client.get_model_version
        address = ask(self.model, self.alias or self.number).tags.get(ADDRESS)
        if not address:
            raise ValueError(f"the version of {self.model} was entered by hand: it has no address in a store")
        return str(address)


class Registry:
    """Versions of one registered model. `run_of` gives the MLflow run of an address."""

    def __init__(self, client: Any, model: str, store: Store, run_of: Callable[[str], str]) -> None:
        self.client, self.model, self.store, self.run_of = client, model, store, run_of

    def enter(self, entries: Sequence[gate.Version], metric: str) -> gate.Verdict:
        """Makes the versions that are not there, then lets the gate decide. The same again changes nothing."""
        self._make_model()
        there = {v.tags.get(ADDRESS): v for v in self.client.search_model_versions(f"name = '{self.model}'")}
        ours = [self._version(entry, there.get(entry.address)) for entry in entries]
        aliases = self.client.get_registered_model(self.model).aliases
        if ours[-1].number >= int(aliases.get("candidate", 0)):
            self.client.set_registered_model_alias(self.model, "candidate", str(ours[-1].number))
        return self._promote(gate.contender(ours, metric), aliases.get("champion"), metric)

    def _make_model(self) -> None:
        """Makes the registered model, unless it is there; another run may do so at the same moment."""
        for attempt in range(2):
            if self.client.search_registered_models(f"name = '{self.model}'"):
                return
            try:
                self.client.create_registered_model(self.model)
            except Exception:  # MLflow's: its kinds are track.py's to know
                if attempt:
                    raise

    def _version(self, entry: gate.Version, found: Any) -> gate.Version:
        numbers = {f"{METRIC}{name}": repr(value) for name, value in entry.metrics.items()}
        tags = {ADDRESS: entry.address, "nanochat.stage": entry.stage, "nanochat.digest": entry.digest, **numbers}
        if found is None:
            run_id = self.run_of(entry.address)
            source = self._source(entry.address, run_id)
            tags["nanochat.source"] = self.store.location(entry.address)
            made = self.client.create_model_version(self.model, source, run_id, tags, await_creation_for=0)
            return dataclasses.replace(entry, number=int(made.version))
        for name, value in tags.items():
            if found.tags.get(name) != value:
                self.client.set_model_version_tag(self.model, found.version, name, value)
        return dataclasses.replace(entry, number=int(found.version))

    def _source(self, address: str, run_id: str) -> str:
        """Where MLflow loads the version from, without a copy of the weights.

        In S3 it is the artifact itself, with the file `MLmodel` beside its own. A local folder is refused as a source
        by MLflow's server; there it is an `MLmodel` among the run's artifacts whose `data` is the folder. A prefix in
        S3 with `#` or `?` is cut there by MLflow: such a version only says where it lies.
        """
        where = self.store.location(address)
        if is_bucket(where) and set(where) & {"#", "?"}:
            said = f"MLflow cannot load a model from {redacted(where)}: it cuts addresses at # and ?"
            log.warning("%s; the version is entered, `nanochat chat %s` loads it", said, address)
            self.client.log_text(run_id, f"{said}\n", "model/where.txt")
            return f"runs:/{run_id}/model"
        if is_bucket(where):
            self.store.put(f"{address}/MLmodel", mlmodel().encode())
            return where
        self.client.log_text(run_id, mlmodel(str(folder_of(where))), "model/MLmodel")
        return f"runs:/{run_id}/model"

    def _promote(self, version: gate.Version, champion: str | None, metric: str) -> gate.Verdict:
        before = None if champion is None else self._read(champion)
        if before is not None and before.number == version.number:
            return gate.Verdict(True, "is the champion already")
        seen = self.client.get_model_version(self.model, str(version.number)).tags.get("nanochat.gate")
        if before is not None and seen is not None:
            return gate.Verdict(False, seen)  # judged once; a cached run says nothing new
        verdict = gate.judge(version, before, metric)
        if verdict.promoted:
            self.client.set_registered_model_alias(self.model, "champion", str(version.number))
        self.client.set_model_version_tag(self.model, str(version.number), "nanochat.gate", verdict.reason)
        return verdict

    def _read(self, number: str) -> gate.Version:
        tags = self.client.get_model_version(self.model, number).tags
        scores = {name.removeprefix(METRIC): float(text) for name, text in tags.items() if name.startswith(METRIC)}
        address, stage = tags.get(ADDRESS, "(entered by hand)"), tags.get("nanochat.stage", "")
        return gate.Version(address, stage, scores, tags.get("nanochat.digest", ""), int(number))


def mlmodel(data: str | None = None) -> str:
    """The file by which MLflow loads a model: the module that does it and, unless it is here, where the data is."""
    lines = ["loader_module: " + LOADER, f"python_version: {platform.python_version()}"]
    lines += [] if data is None else ["data: " + json.dumps(data, ensure_ascii=False)]
    return "flavors:\n  python_function:\n" + "".join(f"    {line}\n" for line in lines)
