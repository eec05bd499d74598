"""The address of every stage of every recipe, as it was written down: who changes one does it on purpose.

An address that moves without a reason makes people train again what they have. After a change that is meant, the text
that the failure prints takes the place of tests/addresses.txt.
"""

from pathlib import Path

from nanochat.recipes import RECIPES, apply, stages_of
from nanochat.workflow.plan import plan

PINNED = Path(__file__).with_name("addresses.txt")
PYTHON_DOCS = "download.environment=000000000000"  # else of this machine's packages


def addresses() -> str:
    lines = []
    for name in RECIPES:
        stages = stages_of(name)
        embedded = any(stage.name == "download" and stage.knobs()["corpus"].default == stage.corpus for stage in stages)
        for step in plan(apply(stages, [PYTHON_DOCS] if embedded else [])):
            parts = [part.address.rsplit("-", 1)[1] for part in step.parts[:2]]
            lines.append(" ".join([name, step.address, *parts]))
    return "\n".join(lines) + "\n"


def test_no_address_of_a_recipe_moves():
    found = addresses()
    assert found == PINNED.read_text(encoding="utf-8"), found
