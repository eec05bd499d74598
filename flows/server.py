"""Prefect's server for those who have none: started in the background on first use, found again ever after.

Promises: a server named by PREFECT_API_URL is taken as it is; our own keeps its data and its log in HOME/prefect,
listens on loopback only, and is recognised as ours before it is reused, also one whose starter was killed. A start that
fails says why, as soon as the process ends. It is not stopped by the commands that use it, nor by the terminal's Ctrl-C
(`nanochat ui --stop` does).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows import first_use, loopback, service_log
from flows.settings import Settings
from nanochat import environment as variables
from nanochat.artifacts.files import write_aside
from nanochat.artifacts.lease import started_at
from nanochat.workflow.launch import MARK, child_environment, python_command, sweep

PREFERRED_PORT = 4200
START_SECONDS = 120.0
PROBE_SECONDS = 5.0
END_SECONDS = 10.0  # for the server to end when asked, before it is killed
STATE, LOG, DATABASE = "server.json", "server.log", "prefect.db"
WHAT_PEOPLE_MADE = ("flow_run", "deployment", "work_pool", "variable", "block_document", "automation")  # tables
STARTED: list[subprocess.Popen[bytes]] = []  # by this process; they outlive it
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
    """The API address of a server that answers; puts it and what goes with it into this process's environment.

    Raises:
        RuntimeError: our own server does not start; the cause, the remedy and the log are named.
    """
    loopback.exempt()
    variables.fill(QUIET)
    if settings.prefect_api_url:
        return settings.prefect_api_url
    home = _home(settings)
    home.mkdir(parents=True, exist_ok=True)
    with first_use.locked(home / "lock"):  # two commands at once start one server
        url = running(settings) or _start(home)
    os.environ.update({"PREFECT_HOME": str(home), "PREFECT_API_URL": url})
    return url


def running(settings: Settings) -> str | None:
    """The address of our own server, if it is up. One that lives is waited for: training may keep it from answering."""
    ours = _noted(_home(settings))
    deadline = time.monotonic() + START_SECONDS
    while ours and _lives(ours):  # not another program on the same port
        if _answers(ours["url"]):
            return ours["url"]
        if not ours["started"] or time.monotonic() > deadline:  # no start time: of a system without /proc
            return None
        time.sleep(0.3)
    return None


def stop(settings: Settings) -> bool:
    """Ends our own server, also one that does not answer; False if there was none."""
    home = _home(settings)
    ours = _noted(home)
    if ours is None:
        return False
    with first_use.locked(home / "lock"):
        found = _lives(ours) if ours["started"] else _answers(ours["url"])
        if found:
            _end(ours)
        (home / STATE).unlink(missing_ok=True)
    return found


def _home(settings: Settings) -> Path:
    return settings.home / "prefect"


def _noted(home: Path) -> dict[str, Any] | None:
    """Address, process and its start time of the server that was started last; a torn note is none."""
    try:
        note = json.loads((home / STATE).read_text(encoding="utf-8"))
        return {"url": str(note["url"]), "pid": int(note["pid"]), "started": str(note["started"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _lives(ours: dict[str, Any]) -> bool:
    for each in STARTED:
        each.poll()  # our own child would stay a zombie
    return started_at(ours["pid"]) == ours["started"] and not _is_dead(ours["pid"])


def _end(ours: dict[str, Any]) -> None:
    """TERM, some time, then KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _lives(ours):
            return
        with suppress(ProcessLookupError):
            os.kill(ours["pid"], number)
        deadline = time.monotonic() + END_SECONDS
        while _lives(ours) and time.monotonic() < deadline:
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with loopback.open_url(f"{url}/health", PROBE_SECONDS) as answer:
            return answer.status == 200
    except OSError:
        return False


def _start(home: Path) -> str:
    """Starts the server and waits until it answers; a database that a cut-off first start left half-made is no end."""
    earlier = _noted(home)
    if earlier and earlier["started"] and _lives(earlier):  # it does not answer
        _end(earlier)
    sweep(_mark(home))  # of a starter that was killed before its note
    port, log = free_port(PREFERRED_PORT), home / LOG
    url, said_before = f"http://127.0.0.1:{port}/api", log.stat().st_size if log.exists() else 0
    process = _launch(home, port, log)
    ours = {"url": url, "pid": process.pid, "started": started_at(process.pid)}
    _note(home, ours)  # before it answers: who is killed while waiting leaves a server that the next one finds
    deadline = time.monotonic() + START_SECONDS
    while not (listens(process.pid, port) and _answers(url)):
        ended = process.poll() is not None
        if not ended and time.monotonic() < deadline:
            time.sleep(0.3)
            continue
        _end(ours)
        (home / STATE).unlink(missing_ok=True)
        said = service_log.tail(log, said_before)
        if ended and (free_port(port) != port or _was_half_made(home / DATABASE, said)):  # somebody took the port
            return _start(home)
        cause = service_log.reason("Prefect", said, log, home / DATABASE)
        late = "" if ended else f"no answer after {START_SECONDS:.0f} s: "
        raise RuntimeError(f"Prefect's server did not start on port {port}: {late}{cause}")
    return url


def _launch(home: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Prefect's foreground server in a session of its own: its `--background` keeps no output."""
    words = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    environment = child_environment(**QUIET, **{MARK: _mark(home)}, PREFECT_HOME=str(home), PREFECT_API_URL="")
    variables.fill({"PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api"}, environment)  # else the page asks port 4200
    if re.search("[%?#]", str(home)):  # Prefect writes the path into a URL as it is
        name = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
        environment[name] = variables.text(name, _database_url(home))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every import would be slow
    with log.open("ab") as output:
        process = subprocess.Popen(
            python_command("prefect", *words),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    STARTED.append(process)
    return process


def _database_url(home: Path) -> str:
    """Of the SQLite file in a folder whose name means something in a URL."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite+aiosqlite", database=str(home / DATABASE)).render_as_string(hide_password=False)


def _was_half_made(database: Path, said: str) -> bool:
    """Whether the start failed of a database that holds nothing yet; it is set aside then."""
    line = service_log.telling_line(said)
    if not service_log.HALF_MADE.search(line) or not database.exists():
        return False
    try:
        if first_use.has_rows(database, WHAT_PEOPLE_MADE):
            return False
    except sqlite3.Error:
        return False
    first_use.set_aside(database, line)
    return True


def _note(home: Path, ours: dict[str, Any]) -> None:
    write_aside(home / STATE, json.dumps(ours))


def _mark(home: Path) -> str:
    return f"Prefect's server of {home}"


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
