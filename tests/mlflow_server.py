"""A real MLflow server on loopback for the tests, which can be killed and started again over the same database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.loopback import open_url

START_SECONDS = 120.0


class MlflowServer:
    """One worker, no job processes: 0.5 GB instead of 3."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self.uri = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        database, artifacts = self.directory / "mlflow.db", self.directory / "artifacts"
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts)]
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with open_url(f"{self.uri}/health", 5):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError((self.directory / "server.log").read_text(encoding="utf-8", errors="replace"))

    def kill(self) -> None:
        """kill -9 of the server and its worker."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def serve(directory: Path, port: int) -> Iterator[MlflowServer]:
    server = MlflowServer(directory, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def as_lines(rows):
    """Rows of metrics as their file has them."""
    return "".join(json.dumps(row) + "\n" for row in rows)
