"""Prefect's server for those who have none: started in the background on first use, found again ever after.

Promises: a server named by PREFECT_API_URL is taken as it is; our own keeps its data in HOME/prefect, listens on
loopback only, and is recognised as ours before it is reused. It is not stopped by the commands that use it
(`nanochat ui --stop` does).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from flows.settings import Settings

PREFERRED_PORT = 4200
START_SECONDS = 120.0
# No statistics to anybody, no banners; leases of concurrency slots on disk, so that a restart of the server does not
# end a running flow; heartbeats, so that a dead flow can be seen.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def ensure(settings: Settings) -> str:
    """The API address of a server that answers; puts it and what goes with it into this process's environment."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if settings.prefect_api_url:
        return settings.prefect_api_url
    os.environ["PREFECT_HOME"] = str(settings.home / "prefect")
    url = running(settings) or _start(settings)
    os.environ["PREFECT_API_URL"] = url
    return url


def running(settings: Settings) -> str | None:
    """The address of our own server, if it is up."""
    state = _state_file(settings)
    if not state.exists():
        return None
    url = json.loads(state.read_text())["url"]
    return url if _answers(url) else None


def stop(settings: Settings) -> bool:
    """Ends our own server; False if there was none."""
    if running(settings) is None:
        return False
    environment = {**os.environ, **QUIET, "PREFECT_HOME": str(settings.home / "prefect")}
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "stop"], env=environment, check=False, capture_output=True
    )
    _state_file(settings).unlink(missing_ok=True)
    return True


def _state_file(settings: Settings) -> Path:
    return settings.home / "prefect" / "server.json"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _start(settings: Settings) -> str:
    home = settings.home / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    port = free_port(PREFERRED_PORT)
    url = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, **QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--background",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if started.returncode or time.monotonic() > deadline:
            said = (started.stdout + started.stderr).strip()[-2000:]
            raise RuntimeError(f"Prefect's server did not start on port {port}: {said or 'it does not answer'}")
        time.sleep(0.3)
    _state_file(settings).write_text(json.dumps({"url": url}))
    return url


def free_port(preferred: int) -> int:
    """The preferred port of loopback, or any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise RuntimeError("no free port on loopback")
