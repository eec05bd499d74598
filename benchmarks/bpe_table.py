"""The Markdown that `benchmarks.bpe` prints: one table for a cell, from its contenders' runs; measures nothing."""

import statistics
from collections.abc import Sequence

from benchmarks.bpe_peers import CONTENDERS

NOISY_SHARE = 0.25

NOTES = f"""\
- Runs: all, and in brackets the quiet ones: those in which other processes (and the hypervisor) took at most
  {NOISY_SHARE:.0%} of the machine's CPU time and of that of the CPUs the run was pinned to. Figures are medians over
  the quiet runs if there are two, else over all runs, and then *noisy* if one of those was. Best is over all runs.
- Texts are in memory before the clock starts. gigatoken reads its file inside its clock, from the page cache.
- CPU: user and system time of the process. Counting is cutting the texts into words and counting those, merging the
  rest: rustbpe's and gigatoken's by their own log lines.
- Memory: peak resident set minus that before training, texts and imports not counted (the peak is reset after loading);
  in brackets without the UTF-8 form that Python attaches to each text that is not ASCII when a trainer reads it, and
  keeps as long as the text. Who hands over texts without keeping them does not pay for it.
- Ratios are to ours: of gigatoken, which trains with GPT-2's pattern only, to nanobpe-gpt2, ours with that pattern.
- Merges are compared token by token, in order, with rustbpe's, or with gigatoken's for GPT-2's pattern. tokenizers
  breaks ties by another order of bytes, so that its merges are not compared."""

HEADER = (
    "| trainer | runs | wall s | best s | CPU s | counting s | merging s | memory MB | wall to ours | memory to ours "
    "| merges | CPU of others |"
)


def counted(runs: Sequence[dict]) -> Sequence[dict]:
    """The runs that medians are taken over: the quiet ones if there are two, else all."""
    quiet = [run for run in runs if run["others_share"] <= NOISY_SHARE]
    return quiet if len(quiet) >= 2 else runs


def median(runs: Sequence[dict], key: str, minus: str | None = None) -> float | None:
    values = [run[key] - (run[minus] if minus else 0) for run in counted(runs) if run[key] is not None]
    return statistics.median(values) if values else None


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def ratio(name: str, runs: dict[str, list[dict]], key: str, minus: str | None = None) -> str:
    """Of medians, this contender's to ours."""
    value, ours = median(runs.get(name, []), key, minus), median(runs.get(CONTENDERS[name].ours, []), key, minus)
    return "-" if value is None or not ours else f"{value / ours:.2f}x"


def merges(name: str, runs: dict[str, list[dict]]) -> str:
    """Whether every run learnt what the contender it is held to learnt."""
    reference = CONTENDERS[name].reference
    if reference is None:
        return "not compared"
    digests = {run["digest"] for run in runs[name]}
    if len(digests) > 1:
        return "VARY from run to run"
    if reference == name or not runs.get(reference):
        return "-"
    equal = digests == {run["digest"] for run in runs[reference]}
    return f"{'those' if equal else 'NOT those'} of {reference}"


def row(name: str, runs: dict[str, list[dict]]) -> str:
    own = runs[name]
    memory = ("memory_mb", "text_copies_mb")
    shares = [run["others_share"] for run in own]
    noisy = " *noisy*" if any(run["others_share"] > NOISY_SHARE for run in counted(own)) else ""
    hidden = "" if all(run["peak_reset"] for run in own) else " or less, with loading"
    cells = [
        name,
        f"{len(own)} ({sum(share <= NOISY_SHARE for share in shares)})",
        number(median(own, "wall_s")) + noisy,
        number(min(run["wall_s"] for run in own)),
        number(median(own, "cpu_s")),
        number(median(own, "counting_s")),
        number(median(own, "merging_s")),
        f"{number(median(own, *memory[:1]), 0)} ({number(median(own, *memory), 0)}){hidden}",
        ratio(name, runs, "wall_s"),
        f"{ratio(name, runs, *memory[:1])} ({ratio(name, runs, *memory)})",
        merges(name, runs),
        f"{min(shares):.0%} to {max(shares):.0%}" if len(shares) > 1 else f"{shares[0]:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def overview(cells: Sequence[dict]) -> str:
    """All cells in one table: our seconds and MB, and how many times as much each peer takes of both."""
    ours = [name for name in CONTENDERS if CONTENDERS[name].ours == name]
    peers = [name for name in CONTENDERS if name not in ours and any(cell["runs"].get(name) for cell in cells)]
    titles = [
        *("text, vocabulary, threads", f"{ours[0]} s", "counting + merging s"),
        *(f"{name}: time" for name in peers),
        f"{ours[0]} MB",
        *(f"{name}: memory" for name in peers),
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for cell in cells:
        runs, own = cell["runs"], cell["runs"].get(ours[0], [])
        figures = [
            f"{cell['mb']:g} MB, {cell['vocab_size']:,}, {cell['threads']}",
            number(median(own, "wall_s")),
            f"{number(median(own, 'counting_s'))} + {number(median(own, 'merging_s'))}",
            *(ratio(name, runs, "wall_s") for name in peers),
            number(median(own, "memory_mb"), 0),
            *(ratio(name, runs, "memory_mb") for name in peers),
        ]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join([*lines, ""])


def table(title: str, runs: dict[str, list[dict]], failed: dict[str, str]) -> str:
    lines = [f"### {title}", "", HEADER, "|---" * HEADER.count(" |") + "|"]
    lines += [row(name, runs) for name, own in runs.items() if own]
    lines += [""] + [f"{name}: {why}\n" for name, why in failed.items()]
    return "\n".join(lines)
