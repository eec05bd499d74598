"""What was found as a table, and as rates for `nanochat plan`.

Standard library only, so that an old `gpu.json` can be read anywhere. Not here: measuring.
"""

from typing import Any

COLUMNS = (
    "model",
    "rows",
    "tok/s",
    "MFU",
    "of matmul",
    "GiB",
    "/ est.",
    "compile s",
    "save s",
    "decode 1",
    "16",
    "peer",
)
GIB = 2**30


def finish(row: dict[str, Any], machine: dict[str, Any]) -> None:
    """Adds to a depth's numbers what follows from them and the machine's."""
    if "tok_per_s" in row:
        flops = row["tok_per_s"] * row["flops_per_token"]
        for name, ceiling in (("mfu", "peak_flops"), ("of_matmul", "matmul_flops")):
            row[name] = flops / machine[ceiling] if machine.get(ceiling) else None
        if theirs := row.get("peer", {}).get("tok_per_s"):
            row["peer"]["ours_over_theirs"] = row["tok_per_s"] / theirs


def rates(report: dict[str, Any]) -> dict[str, Any]:
    """MFU and decoded tokens per second by depth, under the name of the device; of the modern family."""
    rows = {f"d{row['depth']}": row for row in report["depths"] if row["architecture"] == "modern"}
    decoded = {
        depth: {str(n): row[f"decode_{n}"] for n in (1, 16) if f"decode_{n}" in row} for depth, row in rows.items()
    }
    return {
        report["machine"].get("name", "unknown"): {
            "mfu": {depth: row["mfu"] for depth, row in rows.items() if row.get("mfu")},
            "decode_tok_per_s": {depth: each for depth, each in decoded.items() if each},
        }
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A depth's line, column by column; `-` for what is not known."""

    def said(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    peak = row.get("peak_bytes")
    return [
        f"d{row['depth']} {row['architecture']}",
        said(row.get("rows"), "d"),
        said(row.get("tok_per_s"), ",.0f"),
        said(row.get("mfu"), ".1%"),
        said(row.get("of_matmul"), ".1%"),
        said(peak / GIB if peak else None, ".1f"),
        said(row.get("estimate_ratio"), ".2f"),
        said(row.get("compile_seconds"), ".0f"),
        said(row.get("save_seconds"), ".1f"),
        said(row.get("decode_1"), ",.0f"),
        said(row.get("decode_16"), ",.0f"),
        said(row.get("peer", {}).get("ours_over_theirs"), ".2f"),
    ]


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    machine = report["machine"]
    peak, matmul = (machine.get(name) for name in ("peak_flops", "matmul_flops"))
    lines = [f"{machine.get('name', 'unknown device')}, torch {report['torch']}"]
    if matmul:
        share = f", {matmul / peak:.1%} of the peak of {peak / 1e12:,.0f}" if peak else ""
        lines.append(f"products of large matrices: {matmul / 1e12:,.2f} TFLOP/s{share}")
    failed = [check for check in report["checks"] if check["verdict"] != "passed"]
    lines.append(f"checks: {len(report['checks']) - len(failed)} passed, {len(failed)} failed")
    lines += [f"  {check['name']}: {check.get('error') or figure(check)}" for check in failed]
    table = [list(COLUMNS), *(cells(row) for row in report["depths"])]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    for row in report["depths"]:
        if "parts" in row:
            shares = ", ".join(f"{name} {part / row['step_seconds']:.1%}" for name, part in row["parts"].items())
            lines.append(
                f"d{row['depth']} {row['architecture']}, a step of {row['step_seconds'] * 1e3:,.0f} ms: {shares}"
            )
        lines += [f"d{row['depth']} {row['architecture']}: {error}" for error in row.get("errors", ())]
    lines += [f"skipped: {each['item']} ({each['reason']})" for each in report["skipped"]]
    return "\n".join(lines)


def figure(check: dict[str, Any]) -> str:
    """What a check came to beside what is allowed."""
    return f"{check['figure']:.2g}, at most {check['tolerance']:g}"
