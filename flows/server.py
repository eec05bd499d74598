"""Prefect's server for those who have none: started in the background on first use, found again ever after.

Promises: a server named by PREFECT_API_URL is taken as it is; our own keeps its data in HOME/prefect, listens on
loopback only, and is recognised as ours before it is reused. It is not stopped by the commands that use it
(`nanochat ui --stop` does).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from flows.settings import Settings
from nanochat.lease import started_at

PREFERRED_PORT = 4200
START_SECONDS = 120.0
PROBE_SECONDS = 5.0
STATE = "server.json"
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
    home = _home(settings)
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:  # two commands at once start one server
        fcntl.flock(lock, fcntl.LOCK_EX)
        url = running(settings) or _start(settings)
    os.environ.update({"PREFECT_HOME": str(home), "PREFECT_API_URL": url})
    return url


def running(settings: Settings) -> str | None:
    """The address of our own server, if it is up. One that lives is waited for: training may keep it from answering."""
    try:
        ours = json.loads((_home(settings) / STATE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # a torn one is none
        return None
    deadline = time.monotonic() + START_SECONDS
    while started_at(ours["pid"]) == ours["started"]:  # not another program on the same port
        if _answers(ours["url"]):
            return ours["url"]
        if not ours["started"] or time.monotonic() > deadline:  # no start time: of a system without /proc
            return None
        time.sleep(0.3)
    return None


def stop(settings: Settings) -> bool:
    """Ends our own server; False if there was none."""
    if running(settings) is None:
        return False
    _prefect_server(settings, "stop")
    (_home(settings) / STATE).unlink()
    return True


def _home(settings: Settings) -> Path:
    return settings.home / "prefect"


def _prefect_server(settings: Settings, *words: str, url: str = "") -> str:
    """Runs `prefect server …` on our home; what it printed."""
    environment = {**os.environ, **QUIET, "PREFECT_HOME": str(_home(settings)), "PREFECT_API_URL": url}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every import would be slow
    command = [sys.executable, "-m", "prefect", "server", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PROBE_SECONDS) as answer:
            return answer.status == 200
    except OSError:
        return False


def _start(settings: Settings) -> str:
    pid_file = _home(settings) / "server.pid"  # Prefect's own
    if pid_file.exists():  # of a server that does not answer, or that is gone
        _prefect_server(settings, "stop")
    port = free_port(PREFERRED_PORT)
    url = f"http://127.0.0.1:{port}/api"
    said = _prefect_server(settings, "start", "--background", "--host", "127.0.0.1", "--port", str(port), url=url)
    pid = int(pid_file.read_text()) if pid_file.exists() else 0
    deadline = time.monotonic() + START_SECONDS
    while not (listens(pid, port) and _answers(url)):
        dead = _is_dead(pid)
        if dead or time.monotonic() > deadline:
            _prefect_server(settings, "stop")
            if dead and free_port(port) != port:  # somebody else took it meanwhile
                return _start(settings)
            raise RuntimeError(f"Prefect's server did not start on port {port}: {said[-2000:]}")
        time.sleep(0.3)
    state = {"url": url, "pid": pid, "started": started_at(pid)}
    fresh = _home(settings) / f".{STATE}"
    fresh.write_text(json.dumps(state))
    fresh.replace(_home(settings) / STATE)
    return url


def listens(pid: int, port: int) -> bool:
    """Whether the process, or one that it started, has the port: what answers there may be somebody else's."""
    import psutil

    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
        sockets = [each for process in family for each in process.net_connections("tcp")]
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def _is_dead(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_port(preferred: int) -> int:
    """The preferred port of loopback, or any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
