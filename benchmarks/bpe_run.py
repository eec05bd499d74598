"""One measured training in a process of its own: `benchmarks.bpe` starts it, its argument and result are JSON.

Outside the clock: pinning to the first CPUs, reading the texts, imports, the digest of the tokens. Memory is the peak
resident set minus the resident set just before training, with the kernel's peak reset in between (5 written to
/proc/self/clear_refs) so that loading does not count; where it cannot be reset, `peak_reset` is false and the figure
may hide behind what loading took. Python keeps a second, UTF-8 form of a text that is not ASCII once somebody reads it
as such; what those take is in that figure and told apart as well. Needs Linux's /proc.
"""

import ctypes
import gc
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bpe_peers import CONTENDERS, SEPARATOR, Task


def pin(threads: int) -> list[int]:
    """Keeps this process on the first `threads` of its CPUs; returns them."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cpus)
    return cpus


def read_texts(file: Path) -> Iterator[str]:
    """One text at a time straight from the file's bytes, so that loading leaves no free memory for training to use."""
    data = file.read_bytes()
    with memoryview(data) as view:
        start = 0
        while (end := data.find(SEPARATOR, start)) >= 0:
            yield str(view[start:end], "utf-8")
            start = end + len(SEPARATOR)
        yield str(view[start:], "utf-8")


def resident_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def reset_peak() -> bool:
    """Whether the kernel let the peak resident set start again from the present one."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def busy_seconds(cpus: list[int]) -> float:
    """Seconds in which these CPUs have not been idle since the machine started, those a hypervisor took included."""
    names, ticks = {f"cpu{cpu}" for cpu in cpus}, 0
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(contender: str, file: Path, vocab_size: int, threads: int) -> dict:
    everywhere = list(range(os.cpu_count() or 1))
    cpus = pin(threads)
    kind = CONTENDERS[contender]
    texts = [] if kind.reads_file else list(read_texts(file))
    trainer = kind(Task(texts, file, vocab_size, threads))
    text_bytes = sum(map(sys.getsizeof, texts))
    peak_reset, before_kb = reset_peak(), resident_kb("VmRSS")
    busy, own, start = [busy_seconds(everywhere), busy_seconds(cpus)], own_seconds(), time.perf_counter()
    trainer.train()
    wall_s, cpu_s = time.perf_counter() - start, own_seconds() - own
    busy = [busy_seconds(everywhere) - busy[0], busy_seconds(cpus) - busy[1]]
    peak_kb = resident_kb("VmHWM")
    shares = [(took - cpu_s) / (wall_s * len(group)) for took, group in zip(busy, (everywhere, cpus), strict=True)]
    tokens = trainer.tokens()
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "counting_s": trainer.counting_s,
        "merging_s": trainer.counting_s and wall_s - trainer.counting_s,
        "memory_mb": (peak_kb - before_kb) * 1024 / 1e6,
        "text_copies_mb": (sum(map(sys.getsizeof, texts)) - text_bytes) / 1e6,
        "peak_reset": peak_reset,
        "others_share": max(0.0, *shares),
        "digest": tokens and hashlib.sha256(b"".join(len(token).to_bytes(4) + token for token in tokens)).hexdigest(),
    }


def main() -> None:
    task = json.loads(sys.argv[1])
    run = measure(task["contender"], Path(task["text"]), task["vocab_size"], task["threads"])
    Path(task["result"]).write_text(json.dumps(run), encoding="utf-8")


if __name__ == "__main__":
    main()
