"""What is known of graphics cards by name, said once: the plan prices a run by it, the loop tells utilization by it.

Standard library only. Not here: what a card of this machine can do (nanochat/model/device.py).
"""

from __future__ import annotations

# Dense bf16 peak in FLOP/s, by a part of the name the driver gives (NVIDIA's data sheets).
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}
# US dollars an hour on demand, for those of which a price is known (as nanochat's report card has them, 2025-11).
DOLLARS_AN_HOUR = {"H200": 3.5, "H100": 3.0, "A100": 1.79}
# Bytes of memory, as the driver reports them rounded down (NVIDIA's data sheets).
MEMORY_BYTES = {"H200": 140 * 10**9, "H100": 79 * 10**9, "A100": 79 * 10**9}


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOP/s of the card that the driver calls `name`; None where it is not known."""
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
