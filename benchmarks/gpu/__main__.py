"""Proves and measures this library on a GPU in minutes: `python -m benchmarks.gpu [--budget 420] [--peer PATH]`.

Correctness first (checks.py), then what each depth takes (measure.py), the most telling first, each in a process of its
own; what no longer fits into the budget is skipped and named. Results go to `gpu.json` as they come. torch (2.11 to
2.15), numpy and safetensors suffice. The exit code is 1 where a check failed.

Its section `rates` is what nanochat/model/gpus.py and planning/rates.py assume, measured: after a run on a new kind of
card, correct them by hand from it, and enter the table in docs/log.md. How to read it: docs/gpu.md.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import table
from benchmarks.gpu.processes import run

DEPTHS = (12, 20, 4, 26)  # in the order of importance
CHECKS_SHARE = 0.45  # of the budget at the most
ITEM_SHARE = 0.4  # for one measurement, so that one that hangs leaves time for others
LEAST_SECONDS = 15.0  # nothing is begun with less: torch alone takes some


@dataclass
class Kit:
    """One run of the kit: its options, what it has found, and how much time is left."""

    options: argparse.Namespace
    scratch: str
    begun: float = field(default_factory=time.monotonic)
    report: dict[str, Any] = field(
        default_factory=lambda: {"machine": {}, "torch": "", "checks": [], "depths": [], "skipped": [], "rates": {}}
    )

    def left(self) -> float:
        """Seconds of the budget."""
        return self.options.budget - (time.monotonic() - self.begun)

    def limit(self) -> float:
        """Seconds for the next measurement."""
        return min(self.left(), ITEM_SHARE * self.options.budget)

    def tell(self, said: str) -> None:
        """A line of progress, and everything found so far to the disk."""
        print(f"[{time.monotonic() - self.begun:4.0f}/{self.options.budget:.0f} s] {said}", flush=True)
        self.report["rates"] = table.rates(self.report)
        aside = self.options.out.with_name(self.options.out.name + ".part")
        aside.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.options.out)

    def job(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """A job for a child."""
        return {"kind": kind, "device": self.options.device, "tiny": self.options.tiny, **arguments}


def machine(kit: Kit) -> bool:
    """What the device is and what it can do; False where it cannot be used."""
    found = run(kit.job("machine"), max(LEAST_SECONDS, min(kit.left(), 60.0))).merged()
    kit.report["torch"], kit.report["machine"] = found.pop("torch", ""), found
    name, flops = found.get("name", "no device"), found.get("matmul_flops", 0.0)
    kit.tell(f"{name}: {found.get('error') or f'{flops / 1e12:,.2f} TFLOP/s in large products'}")
    return "device" in found


def checks(kit: Kit) -> None:
    """Every check; one that ends its process is failed, and the others go on in a new one."""
    from benchmarks.gpu.checks import CHECKS

    device = kit.report["machine"].get("device")
    names = [name for name, check in CHECKS.items() if device == "cuda" or not check.cuda_only]
    end = kit.left() - CHECKS_SHARE * kit.options.budget
    while names:
        if (limit := kit.left() - end) < LEAST_SECONDS:
            kit.report["skipped"] += [{"item": f"check: {name}", "reason": "no time left"} for name in names]
            kit.tell(f"{len(names)} checks skipped")
            return

        def hear(check: dict[str, Any]) -> None:
            names.remove(check["name"])
            kit.report["checks"].append(check)
            kit.tell(f"{check['verdict']}  {check['name']}: {table.figure(check)} ({check['seconds']} s)")

        outcome = run(kit.job("checks", names=names), limit, hear)
        if names and not outcome.error.startswith("cut"):
            failed = CHECKS[names.pop(0)]
            error = outcome.error or "it said nothing"
            verdict = {"name": failed.name, "tolerance": failed.tolerance, "figure": None, "verdict": "failed"}
            kit.report["checks"].append({**verdict, "seconds": None, "error": error})
            kit.tell(f"failed  {failed.name}: {error}")


def row_of(kit: Kit, depth: int, architecture: str) -> dict[str, Any]:
    """The entry of that model."""
    for row in kit.report["depths"]:
        if (row["depth"], row["architecture"]) == (depth, architecture):
            return row
    kit.report["depths"].append({"depth": depth, "architecture": architecture, "errors": []})
    return kit.report["depths"][-1]


def measure(kit: Kit, kind: str, depth: int, architecture: str) -> None:
    """One measurement of one model; what came before an error is kept."""
    item = f"{kind} d{depth} {architecture}"
    if kit.left() < LEAST_SECONDS:
        kit.report["skipped"].append({"item": item, "reason": f"{max(0.0, kit.left()):.0f} s left"})
        kit.tell(f"skipped {item}")
        return
    row = row_of(kit, depth, architecture)
    row |= KINDS[kind](kit, row, depth, architecture)
    if error := row.pop("error", ""):
        row["errors"].append(f"{kind} failed: {error}")
    table.finish(row, kit.report["machine"])
    kit.tell(f"{item}: {error or told(kind, row)}")


def train(kit: Kit, row: dict[str, Any], depth: int, architecture: str) -> dict[str, Any]:
    """A training step; once more with half the rows where memory ran out."""
    found = run(kit.job("train", depth=depth, architecture=architecture, rows=0), kit.limit()).merged()
    if "OutOfMemory" in found.get("error", "") and found.get("rows", 0) > 1 and kit.left() > LEAST_SECONDS:
        row["errors"].append(f"{found['rows']} rows: {found['error']}")
        half = found["rows"] // 2
        found = run(kit.job("train", depth=depth, architecture=architecture, rows=half), kit.limit()).merged()
    return found


def save(kit: Kit, row: dict[str, Any], depth: int, architecture: str) -> dict[str, Any]:
    """A checkpoint."""
    return run(kit.job("save", depth=depth, architecture=architecture, scratch=kit.scratch), kit.limit()).merged()


def decode(kit: Kit, row: dict[str, Any], depth: int, architecture: str) -> dict[str, Any]:
    """Answers."""
    return run(kit.job("decode", depth=depth, architecture=architecture), kit.limit()).merged()


def peer(kit: Kit, row: dict[str, Any], depth: int, architecture: str) -> dict[str, Any]:
    """The same step by karpathy's nanochat."""
    from benchmarks.gpu.measure import run_of

    if "tok_per_s" not in row:
        return {"error": "there is nothing of ours to compare with"}
    planned = run_of(depth, architecture, row["rows"], kit.options.tiny)
    job = {
        "kind": "peer", "path": str(kit.options.peer.resolve()), "config": planned.derived.config.as_dict(),
        "rows": planned.rows, "passes": planned.passes, "device": kit.report["machine"]["device"],
        "compiled": not kit.options.tiny,
    }  # fmt: skip
    found = run(job, kit.limit()).merged()
    error = found.pop("error", "")
    return ({"peer": found} if found else {}) | ({"error": error} if error else {})


KINDS: dict[str, Callable[[Kit, dict[str, Any], int, str], dict[str, Any]]] = {
    "train": train, "save": save, "decode": decode, "peer": peer,
}  # fmt: skip


def told(kind: str, row: dict[str, Any]) -> str:
    """The line of progress of a measurement that went well."""
    if kind == "train":
        utilization = f", MFU {row['mfu']:.1%}" if row.get("mfu") else ""
        return f"{row['tok_per_s']:,.0f} tok/s{utilization}"
    if kind == "save":
        return f"{row['save_seconds']:.1f} s for {row['save_bytes'] / 2**30:.2f} GiB"
    if kind == "decode":
        return f"{row['decode_1']:,.0f} tok/s alone, {row['decode_16']:,.0f} in a batch of 16"
    return f"ours / theirs {row['peer']['ours_over_theirs']:.2f}"


def items(depths: list[int], with_peer: bool) -> list[tuple[str, int, str]]:
    """The measurements, the most telling first."""
    kinds = ("train", "peer") if with_peer else ("train",)
    first, *rest = depths
    found = [(kind, first, "modern") for kind in (*kinds, "decode", "save")]
    found += [(kind, depth, "modern") for depth in rest[:1] for kind in (*kinds, "decode")]
    found.append(("train", first, "classic"))
    found += [(kind, depth, "modern") for depth in rest[1:] for kind in (*kinds, "decode")]
    return found + [("save", depth, "modern") for depth in rest]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--depths", type=int, nargs="+", help="in the order of importance; 12 20 4 26 unless said")
    parser.add_argument("--peer", type=Path, help="a checkout of karpathy's nanochat to measure beside")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU in seconds, without a code generator")
    chosen = parser.parse_args()
    chosen.depths = chosen.depths or ([2] if chosen.tiny else list(DEPTHS))
    return chosen


def main() -> int:
    """Run it; 1 where a check failed."""
    with tempfile.TemporaryDirectory() as scratch:
        kit = Kit(options(), scratch)
        if not machine(kit):
            return 1
        checks(kit)
        for kind, depth, architecture in items(kit.options.depths, kit.options.peer is not None):
            measure(kit, kind, depth, architecture)
    print(f"\n{table.text(kit.report)}\n\nfound: {os.fspath(kit.options.out)}")
    return int(not kit.report["checks"] or any(each["verdict"] != "passed" for each in kit.report["checks"]))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exit ends the child too
    raise SystemExit(main())
