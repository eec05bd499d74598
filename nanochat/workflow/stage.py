"""What a stage is: a frozen dataclass that names the stages it takes, the files it makes, where it runs and its knobs.

Everything else reads this: command line, Prefect graph, run form, storage address, MLflow run, README. Promises: two
stages with the same meaning have the same address on every machine; what cannot be written canonically is refused;
nothing here does any work. It does not execute stages (runner.py), store them (store.py) or order them (plan.py).
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from nanochat.errors import LARGEST, shortened, unknown

if TYPE_CHECKING:
    from nanochat.artifacts.metrics import Metrics

Kind = Literal["identity", "execution"]
STAGES: dict[str, type[Stage]] = {}


def _knob(kind: Kind, default: Any, text: str, rules: dict[str, Any]) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "help": text, **rules})


def identity(default: Any, text: str, **rules: Any) -> Any:
    """A knob that changes the result: it is part of the address.

    Rules: `at_least`, `at_most` bound a number; `of_parts=False` keeps the knob out of the addresses of a mapped
    stage's parts (the number of shards does not change what a shard holds); `later=True` is for a knob that came when
    there were addresses already: it is in none while it has its default, at which the stage does what it always did.
    """
    return _knob("identity", default, text, rules)


def execution(default: Any, text: str, **rules: Any) -> Any:
    """A knob that changes only how the result is reached: it never forks an address."""
    return _knob("execution", default, text, rules)


@dataclasses.dataclass(frozen=True)
class Knob:
    """One knob of a stage, read off its field."""

    name: str
    kind: Kind
    type: Any
    default: Any
    help: str
    at_least: float | None = None
    at_most: float | None = None
    of_parts: bool = True
    later: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    def parse(self, value: Any, where: str) -> Any:
        """The value in the knob's type, also from text. ValueError names the knob and the remedy."""
        parsed = _parse(self.type, value, where)
        for bound, wrong, word in (
            (self.at_least, lambda b: parsed < b, "at least"),
            (self.at_most, lambda b: parsed > b, "at most"),
        ):
            if bound is not None and wrong(bound):
                raise ValueError(f"{where} = {parsed!r}: must be {word} {bound} ({self.help})")
        return parsed


def _parse(kind: Any, value: Any, where: str) -> Any:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"{where} = {shortened(value)}: choose one of {', '.join(map(str, choices))}")
        return value
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false", "1", "0", "yes", "no"):
        return value.lower() in ("true", "1", "yes")
    if kind is int and isinstance(value, str) and re.fullmatch(r"-?[0-9]+(_[0-9]+)*", value):
        value = int(value) if len(value) < 40 else LARGEST + 1  # int() refuses thousands of digits in its own words
    if kind is int and type(value) is int and abs(value) > LARGEST:
        raise ValueError(f"{where}: the number is too large: give one of at most {LARGEST:,}")
    if kind is float and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            value = float(value)
        except (ValueError, OverflowError):
            raise ValueError(f"{where} = {shortened(value)}: needs a number") from None
    if kind is str and isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{where} = {shortened(value)}: holds a character that cannot be printed: leave it out")
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        name = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{where} = {shortened(value)}: needs a value of type {name}")
    return value


@dataclasses.dataclass(frozen=True)
class StageContext:
    """Where a stage works: its inputs, a fresh directory for the artifact, a work directory that survives attempts."""

    inputs: Mapping[str, Path]
    input_parts: Mapping[str, tuple[Path, ...]]
    out: Path
    work: Path
    metrics: Metrics
    part: int | None = None
    addresses: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the inputs

    def __getitem__(self, stage: str) -> Path:
        return self.inputs[stage]

    def parts(self, stage: str) -> tuple[Path, ...]:
        """Directories of the parts of a mapped input, in order; part 0 is the validation shard."""
        return self.input_parts[stage]


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
class Stage:
    """Base of all stages. A subclass's fields are its knobs, its header its edges, its docstring its documentation."""

    name: ClassVar[str]
    takes: ClassVar[tuple[type[Stage], ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    on: ClassVar[Literal["cpu", "gpu"]] = "cpu"
    mapped: ClassVar[bool] = False
    version: ClassVar[int] = 1
    work: ClassVar[str] = ""  # the file of nanochat/stages/ that does it; the name, where the class says no other

    def __init_subclass__(
        cls,
        *,
        takes: tuple[type[Stage], ...] = (),
        makes: tuple[str, ...] = (),
        on: Literal["cpu", "gpu"] = "cpu",
        mapped: bool = False,
        version: int = 1,
        work: str = "",
        abstract: bool = False,
    ) -> None:
        super().__init_subclass__()
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        cls.takes, cls.makes, cls.on, cls.mapped, cls.version = takes, makes, on, mapped, version
        cls.work = work or cls.work
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        if abstract:
            return
        cls.work = cls.work or cls.name
        if cls.name in STAGES:
            raise ValueError(f"two stages are called {cls.name!r}: rename one of the classes")
        STAGES[cls.name] = cls

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """All knobs by name, in the order of declaration."""
        hints = typing.get_type_hints(cls)
        found = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            rules = dict(field.metadata)
            kind, text = rules.pop("kind"), rules.pop("help")
            found[field.name] = Knob(field.name, kind, hints[field.name], field.default, text, **rules)
        return found

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the docstring."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    def __post_init__(self) -> None:
        for knob in self.knobs().values():
            where = f"{self.name}.{knob.name}"
            object.__setattr__(self, knob.name, knob.parse(getattr(self, knob.name), where))
        self.check()

    def check(self) -> None:
        """Refuses knobs that do not go together (ValueError); overridden where there is something to refuse."""

    def resolved(self) -> Self:
        """The stage with what depends on the machine written out (the versions a corpus is made of)."""
        return self

    def label(self) -> str | None:
        """The readable half of the address; None takes the label of the first input."""
        return None

    def num_parts(self) -> int:
        """How many parts a mapped stage has; those that map over a mapped input have as many as that."""
        raise NotImplementedError(self.name)

    def values(self, kind: Kind, *, of_parts: bool = False) -> dict[str, Any]:
        """The knobs of one kind with their values."""
        chosen = [knob for knob in self.knobs().values() if knob.kind == kind and (knob.of_parts or not of_parts)]
        return {knob.name: getattr(self, knob.name) for knob in chosen}

    def meaning(self, *, of_parts: bool = False) -> dict[str, Any]:
        """The knobs that the address is made of."""
        later = {knob.name: knob.default for knob in self.knobs().values() if knob.later}
        values = self.values("identity", of_parts=of_parts)
        return {name: value for name, value in values.items() if name not in later or value != later[name]}

    def replaced(self, **knobs: Any) -> Self:
        """A copy with some knobs changed; an unknown one is refused with its nearest neighbour."""
        known = self.knobs()
        for name in knobs:
            if name not in known:
                raise ValueError(unknown(f"knob of {self.name}", name, known))
        return dataclasses.replace(self, **knobs)  # type: ignore[type-var]
