"""The inside of a stage's process: spec in, files out.

Reads the spec, does the stage's work, writes `result.json`, or `error.json` with the cause. Promises: exit code 0 only
after the result is written, and of a rank whose work is done no other, whatever its libraries do at the end; 75 when
the stage saved and wants to be resumed. The environment of torchrun is read here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import traceback
import uuid
from pathlib import Path
from typing import Any

from nanochat import pipeline
from nanochat.artifacts import metrics, provenance
from nanochat.artifacts.files import write_aside
from nanochat.artifacts.provenance import ARITHMETIC
from nanochat.errors import Interrupted
from nanochat.redaction import redacted
from nanochat.workflow import launch
from nanochat.workflow.launch import RESUME_EXIT_CODE
from nanochat.workflow.stage import STAGES, StageContext

RECORDED = ("torch", "numpy", "safetensors", "tiktoken", "nanobpe", "pyarrow", "datasets")
assert pipeline.STAGES is STAGES, "the declarations must have been read"


def run_spec(path: Path) -> int:
    """Runs the stage that the spec describes; returns the exit code."""
    launch.die_with_parent()
    rank = int(os.environ.get("RANK", "0"))
    spec = json.loads(path.read_text(encoding="utf-8"))
    work, before = Path(spec["work"]), set(sys.modules)
    try:
        numbers = _run(spec, work, rank)
    except Interrupted as interrupted:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        _write(work / launch.RESUME, {"reason": str(interrupted)})  # torchrun's own exit code cannot say it
        return RESUME_EXIT_CODE
    except BaseException as error:
        report = _report(error, rank)
        _write(work / f"error-{rank}.json", report)
        print(report["traceback"], file=sys.stderr, flush=True)
        if "WORLD_SIZE" in os.environ:  # leaving tidily is collective: it would wait for ranks that wait for this one
            os._exit(1)
        return 1
    if rank == 0:
        versions = {"python": platform.python_version(), **_versions()}
        used = provenance.closure(set(sys.modules) - before)
        result = {"numbers": numbers, "code": provenance.digests(used), "versions": versions}
        _write(work / "result.json", result | {"arithmetic": _arithmetic(work)})
    if "WORLD_SIZE" in os.environ:  # gloo's threads may outlive the group and abort the end of the interpreter, and
        os._exit(0)  # torchrun would then end the other ranks before their result is there (pytorch/pytorch#179291)
    return 0


def _run(spec: dict[str, Any], work: Path, rank: int) -> dict[str, float]:
    ctx = StageContext(
        inputs={name: Path(directory) for name, directory in spec["inputs"].items()},
        input_parts={name: tuple(map(Path, directories)) for name, directories in spec["parts"].items()},
        out=work / "out",
        work=work,
        metrics=metrics.Metrics(work / metrics.FILE if rank == 0 else None),
        part=spec["part"],
        addresses=spec["addresses"],
    )
    stage = STAGES[spec["stage"]](**spec["knobs"])
    knobs = stage.values("execution")
    if rank == 0 and "dtype" in knobs:
        _note_arithmetic(knobs["dtype"], knobs["device"], work)
    work_of = importlib.import_module(f"nanochat.stages.{stage.work}")
    return work_of.gather(stage, ctx) if spec["gather"] else work_of.run(stage, ctx)


def _note_arithmetic(dtype: str, device: str, work: Path) -> None:
    """Adds this process's to those of the attempts before it, which may have run on another kind of machine."""
    from nanochat.model.device import arithmetic, compute_dtype, device_of  # with torch, which not every stage needs

    where = device_of(device)
    used = _arithmetic(work)
    if (mine := arithmetic(compute_dtype(dtype, where), where)) not in used:
        _write(work / ARITHMETIC, {"used": [*used, mine]})


def _arithmetic(work: Path) -> list[str]:
    path = work / ARITHMETIC
    return json.loads(path.read_text(encoding="utf-8"))["used"] if path.exists() else []


def _report(error: BaseException, rank: int) -> dict[str, Any]:
    """What is written down of an error: without the secrets of URLs."""
    message, trace = redacted(str(error) or repr(error)), redacted(traceback.format_exc())
    return {"type": type(error).__name__, "message": message, "traceback": trace, "rank": rank}


def _versions() -> dict[str, str]:
    found = {}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    write_aside(path, json.dumps(content, indent=1), suffix=str(os.getpid()))  # several ranks write one outcome


def _shutdown_timeout() -> list[str]:
    """The time that ranks have to save after TERM; torchrun's own 30 s may be too short for a large model."""
    from torch.distributed.run import get_args_parser

    known = any("--shutdown-timeout" in action.option_strings for action in get_args_parser()._actions)
    return [f"--shutdown-timeout={int(launch.GRACE_SECONDS)}"] if known else []


def run_ranks(num_ranks: int, spec: Path, logs: Path) -> None:
    """Starts the ranks of a stage on this machine through torchrun, with a log file each.

    They meet on loopback: the machine's own name need not resolve, and may resolve to what a firewall closes.
    """
    launch.die_with_parent()
    from torch.distributed.run import main

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    options = ["--nnodes=1", f"--nproc-per-node={num_ranks}", "--local-addr=127.0.0.1"]  # not --standalone: that
    options += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", f"--rdzv-id={uuid.uuid4()}"]  # meets at localhost
    options += [f"--log-dir={logs}", "--redirects=3"]
    options += _shutdown_timeout()
    main([*options, "-m", "nanochat", "stage", str(spec)])
