"""Live progress in a terminal: one line per stage, the one at work moving; plain lines where there is no terminal.

It only shows what it is told; the numbers come from the stages' metrics files.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from nanochat.workflow.runner import Outcome

LINE_SECONDS = 10.0
BAR_WIDTH = 24


class _Patient(Console):
    """Goes quiet where nobody reads on (`nanochat run … | head`): Rich's own would end the stage that prints."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # what is printed later, and the flush at the interpreter's end
        os.close(nowhere)


class Display:
    """Safe to be called from the threads of several tasks."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Patient(file=sys.stdout, highlight=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._rows: dict[str, tuple[float | None, str]] = {}
        self._began: dict[str, float] = {}
        self._last_line = 0.0
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._table)
            self._live.start()

    def close(self) -> None:
        """Ends the moving part; what was finished stays on the screen."""
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for address, (share, text) in self._rows.items():
                filled = round(BAR_WIDTH * (share or 0.0))
                elapsed = time.monotonic() - self._began[address]
                table.add_row(address, "━" * filled + "╌" * (BAR_WIDTH - filled), text, f"{elapsed:.0f} s")
        return table

    def said(self, address: str, text: str) -> None:
        """Something about a stage that is not progress."""
        with self._lock:
            self._began.setdefault(address, time.monotonic())
            self._rows[address] = (None, text)

    def started(self, address: str) -> None:
        self.said(address, "starting")

    def progressed(self, address: str, share: float | None, text: str) -> None:
        with self._lock:
            self._began.setdefault(address, time.monotonic())
            self._rows[address] = (share, text)
            now = time.monotonic()
            quiet = self._live is not None or now - self._last_line < LINE_SECONDS
            if not quiet:
                self._last_line = now
        if not quiet:
            self.console.print(f"  ...     {address}  {text}")

    def _close_row(self, address: str) -> None:
        with self._lock:
            self._rows.pop(address, None)

    def finished(self, address: str, outcome: Outcome) -> None:
        self._close_row(address)
        note = f"  ({outcome.note})" if outcome.note else ""
        if outcome.cached:
            self.console.print(f"  cached  {address}{note}")
        else:
            self.console.print(f"  made    {address}  {outcome.seconds:.1f} s{note}")

    def failed(self, address: str, cause: str) -> None:
        self._close_row(address)
        self.console.print(f"  FAILED  {address}: {cause}", markup=False)
