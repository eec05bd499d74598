"""Files of a working directory that are named like modules. They do not test anything."""

from __future__ import annotations

from pathlib import Path

NAMES = ("copy", "pyarrow", "torch", "numpy", "json", "prefect", "mlflow", "nanochat", "flows")


def lay_decoys(folder: Path) -> None:
    """Files that end whoever takes them for the standard library, for libraries or for ours."""
    for name in NAMES:
        text = f"raise SystemExit('{name}.py of the working directory was run')\n"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
