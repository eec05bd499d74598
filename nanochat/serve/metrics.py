"""Numbers for Prometheus, in its text format (version 0.0.4), by hand: counters, gauges, histograms.

Everything is counted on the event loop's thread, so nothing is locked. Not here: what is counted where.
"""

from __future__ import annotations

import resource
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How often a duration was at most so long."""

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(SECONDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> Iterator[str]:
        seen = 0
        for bound, count in zip([*map(str, SECONDS), "+Inf"], self.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{le="{bound}"}} {seen}'
        yield f"{name}_sum {self.total}"
        yield f"{name}_count {seen}"


class Metrics:
    """All of one server's; names without the prefix `nanochat_`."""

    def __init__(self) -> None:
        self.counters: dict[str, dict[Labels, float]] = {}
        self.help: dict[str, str] = {}
        self.histograms: dict[str, Histogram] = {}

    def counter(self, name: str, meaning: str) -> None:
        """Declares a counter, so that it is there before it counts."""
        self.help[name], self.counters[name] = meaning, {}

    def histogram(self, name: str, meaning: str) -> None:
        self.help[name], self.histograms[name] = meaning, Histogram()

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        counter = self.counters[name]
        key = tuple(sorted(labels.items()))
        counter[key] = counter.get(key, 0) + amount

    def observe(self, name: str, seconds: float) -> None:
        self.histograms[name].add(seconds)

    def text(self, gauges: list[tuple[str, str, Labels, float]]) -> str:
        """The page; `gauges` are (name, meaning, labels, value) as they are now."""
        lines: list[str] = []
        for name, values in self.counters.items():
            lines += _head(name, self.help[name], "counter")
            lines += [_line(name, labels, value) for labels, value in (values or {(): 0.0}).items()]
        for name, histogram in self.histograms.items():
            lines += [*_head(name, self.help[name], "histogram"), *histogram.lines(f"nanochat_{name}")]
        told: set[str] = set()
        for name, meaning, labels, value in sorted(gauges):
            lines += [] if name in told else _head(name, meaning, "gauge")
            told.add(name)
            lines.append(_line(name, labels, value))
        return "\n".join(lines) + "\n"


def _head(name: str, meaning: str, kind: str) -> list[str]:
    return [f"# HELP nanochat_{name} {meaning}", f"# TYPE nanochat_{name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"nanochat_{name}{{{inside}}} {value}" if inside else f"nanochat_{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0
