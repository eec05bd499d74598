"""One measurement, or the checks, in a process of its own: `python -m benchmarks.gpu.child JOB FILE`.

JOB is JSON: its `kind` says what to do, the rest is its arguments. What is found is appended to FILE as it comes, a
line of JSON each, so that the parent keeps it whatever happens to this process afterwards. A peer's process loads
nothing of this library: both packages have one name.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import Say


def main(job: dict[str, Any], found: Path) -> None:
    """Do the job."""

    def say(numbers: dict[str, Any]) -> None:
        with found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(numbers) + "\n")

    kind = job.pop("kind")
    if kind == "peer":
        from benchmarks.gpu.peer import peer

        peer(say=say, **job)
        return
    from benchmarks.gpu import measure

    kinds: dict[str, Callable[..., None]] = {
        "machine": measure.machine, "checks": checks, "train": measure.train, "decode": measure.decode,
        "save": measure.save,
    }  # fmt: skip
    kinds[kind](say=say, **job)


def checks(names: list[str], device: str, tiny: bool, say: Say) -> None:
    """The checks of these names; what one raises ends the process, because it may have broken the device for it."""
    from benchmarks.gpu.checks import CHECKS, Place
    from nanochat.model.device import device_of

    place = Place(device_of(device), tiny)
    for name in names:
        say(CHECKS[name].run(place))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
