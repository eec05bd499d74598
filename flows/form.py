"""The run form: pydantic models made from the declarations, one box per stage, one field per knob.

Promises: the form, the command line and the addresses know the same knobs, because all read the same classes; only
what was filled in is sent; an unknown knob or a value out of bounds is refused by the server. It checks nothing that
the stages check themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from nanochat.pipeline import STAGES
from nanochat.recipes import RECIPES, stages_of
from nanochat.redaction import redacted
from nanochat.workflow.stage import Knob, Stage

if TYPE_CHECKING:  # to a type checker names; to Prefect's form a choice, read off the declarations
    RecipeName = str
    StageName = str
else:
    RecipeName = Literal[tuple(RECIPES)]
    StageName = Literal[tuple(STAGES)]


def _field(knob: Knob) -> tuple[Any, Any]:
    """An empty box: what is left empty keeps the recipe's value."""
    kind = Literal["true", "false"] if knob.type is bool else knob.type  # a switch's "off" could not be told from unset
    suffix = "" if knob.kind == "identity" else " (changes only how the result is reached)"
    return kind, Field(
        default=None,
        title=knob.name,
        description=f"{knob.help}{suffix}",
        ge=knob.at_least,
        le=knob.at_most,
        json_schema_extra=lambda schema: schema.pop("default", None),
    )


def _model(stage: type[Stage]) -> type[BaseModel]:
    fields: dict[str, Any] = {name: _field(knob) for name, knob in stage.knobs().items()}
    made = create_model(stage.__name__, __config__=ConfigDict(extra="forbid", title=stage.name), **fields)
    made.__doc__ = stage.summary()
    return made


def _box(stage: type[Stage]) -> tuple[Any, Any]:
    model = _model(stage)
    return model, Field(default_factory=model, alias=stage.name, title=stage.name, description=stage.summary())


_boxes: dict[str, Any] = {f"{name}_": _box(stage) for name, stage in STAGES.items() if stage.knobs()}
Knobs = create_model("Knobs", __config__=ConfigDict(extra="forbid", title="knobs"), **_boxes)
Knobs.__doc__ = "What to change of the recipe; empty boxes keep its values."


Filled = dict[str, dict[str, Any]]  # stage -> knob -> value


def filled_in(knobs: BaseModel | Filled) -> Filled:
    """What was filled in. ValueError for what the form does not have (a call from Python may hand over anything)."""
    model = knobs if isinstance(knobs, Knobs) else Knobs.model_validate(knobs)
    return model.model_dump(exclude_none=True, exclude_defaults=True, by_alias=True)


def changed(recipe: str, stages: Iterable[Stage]) -> Filled:
    """How one would fill in the form to get these stages from the recipe, on any machine."""
    plain = {stage.name: stage for stage in stages_of(recipe)}
    filled: Filled = {}
    for stage in stages:
        for name in stage.knobs():
            value = getattr(stage, name)
            if value != getattr(plain[stage.name], name):
                filled.setdefault(stage.name, {})[name] = str(value).lower() if type(value) is bool else value
    return filled


HIDDEN: dict[tuple[str, str], str] = {}  # (stage, knob) -> what a command gave to a flow of its own process


def hidden(filled: Filled) -> Filled:
    """The same without the secrets of URLs, for what is written down; in this process `revealed` knows them."""
    shown: Filled = {}
    for stage, values in filled.items():
        for name, value in values.items():
            bare = redacted(value) if isinstance(value, str) else value
            shown.setdefault(stage, {})[name] = bare
            if bare != value:
                HIDDEN[stage, name] = value
    return shown


def revealed(filled: Filled) -> Filled:
    """What `hidden` was given."""
    real: Filled = {stage: dict(values) for stage, values in filled.items()}
    for (stage, name), value in HIDDEN.items():
        if real.get(stage, {}).get(name) == redacted(value):
            real[stage][name] = value
    return real


def settings_of(filled: Filled) -> list[str]:
    """The same as the command line has it: `STAGE.KNOB=VALUE`."""
    return [f"{stage}.{name}={value}" for stage, values in filled.items() for name, value in values.items()]
