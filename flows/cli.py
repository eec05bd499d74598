"""The command `nanochat`: the library's verbs over any store, `run` through Prefect, `serve` by alias, `ui`, `ls`.

Promises: no service has to be started by hand; what was refused is one line on the terminal; Ctrl-C leaves nothing
running. Heavy libraries are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import loopback, server, service_log, tracking_uri
from flows.settings import Settings
from flows.settings import read as read_settings
from nanochat.artifacts.store import FileStore, Store
from nanochat.cli import add_commands, add_run, chosen, forced, home_option, planned, run_command
from nanochat.cli import command_serve as command_serve_address
from nanochat.locations import folder_of, is_bucket
from nanochat.planning import probe
from nanochat.planning.preflight import preflight
from nanochat.recipes import apply, stages_of
from nanochat.redaction import redacted
from nanochat.workflow import launch

DEMO_QUESTIONS = ("Hello!", "What is your name?", "What is 58 * 67?", "Spell the word garden.")


def open_any(uri: str, home: Path) -> Store:
    """A folder or s3://. boto3 is imported only for the latter."""
    where = read_settings(home=home, store=uri)
    if not is_bucket(where.store):
        return FileStore(folder_of(where.store))
    from flows.store import open_store

    return open_store(where.store, where.home / "cache", cache_bytes=where.cache_bytes)


def command_run(args: argparse.Namespace, open_store: Any) -> int:
    """The Prefect flow, in this process, on a server that is found or started."""
    steps = planned(args)
    store = open_store(args.store, args.home)
    if args.demo and args.only:
        raise ValueError("--demo shows the whole pipeline: leave out --only")
    force = forced(args, steps)
    preflight(steps, store, force)
    where = read_settings(home=args.home, store=store.uri)
    tracking_uri.check(where.tracking_uri)
    print(f"recipe {args.recipe}: {len(steps)} stages, store {redacted(store.uri)}", flush=True)
    if args.demo:
        _expect(steps, {step.name for step in steps if step.name in force or store.record(step.address) is None})
    url = server.ensure(where)
    began = time.monotonic()
    with _environment(NANOCHAT_HOME=str(where.home), NANOCHAT_STORE=store.uri):
        state = _flow(args, sorted(force))
    ui = redacted(url.removesuffix("/api"))
    page = f"{ui}/runs/flow-run/{state.state_details.flow_run_id}"
    print(f"{state.name} after {time.monotonic() - began:.0f} s: {page}")
    if not state.is_completed():
        print(state.message, file=sys.stderr)
        return 1
    return _show(args, steps, store) if args.demo else 0


def _expect(steps: list[Any], to_make: set[str]) -> None:
    """Says how long what is missing takes on this machine; in a process of its own, because torch is not for flows."""
    if not to_make:
        return
    command = launch.python_command("nanochat", "probe", "--json")
    said = subprocess.run(
        command, env=launch.child_environment(), stdout=subprocess.PIPE, encoding="utf-8", errors="replace", check=False
    )
    try:
        rate = probe.Rate(**json.loads(said.stdout.strip().splitlines()[-1]))
    except (IndexError, TypeError, ValueError):  # an estimate is nice to have: the run goes on without
        print(f"{len(to_make)} stages to make (how fast this machine is could not be measured)", flush=True)
        return
    seconds = probe.seconds_of(steps, to_make, rate)
    minutes = "" if seconds is None else f": about {max(1, round(seconds / 60))} minutes on this machine"
    print(f"{len(to_make)} stages to make{minutes} ({rate})", flush=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """The environment of the flow, which reads it as it does in a worker."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _flow(args: argparse.Namespace, force: list[str]) -> Any:
    from flows import run as shared
    from flows.display import Display
    from flows.form import changed, hidden
    from flows.pipeline import pipeline

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False  # they go to Prefect's pages; here the display tells the same
    warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries underneath: nothing the user can do
    knobs = hidden(changed(args.recipe, apply(stages_of(args.recipe), args.settings)))
    with Display() as display:
        before = shared.DISPLAY.set(display)
        try:
            return pipeline(recipe=args.recipe, knobs=knobs, only=args.only, force=force, return_state=True)
        finally:
            shared.DISPLAY.reset(before)


def _show(args: argparse.Namespace, steps: list[Any], store: Store) -> int:
    """The end of the demo: a chat, the scores, the addresses, the way to the UIs."""
    addresses = {step.name: step.address for step in steps}
    print("\nA short chat with the model:\n", flush=True)
    model = str(store.fetch(addresses["rl"]))
    command = launch.python_command("nanochat", "chat", "--directory", model, "--temperature", "0")
    for question in DEMO_QUESTIONS:
        command += ["--prompt", question]
    status = subprocess.run(command, env=launch.child_environment(), check=False).returncode
    report = store.fetch(addresses["report"]) / "report.md"
    print(f"\n{report.read_text(encoding='utf-8').strip()}\n\nArtifacts in {redacted(store.uri)}:")
    for step in steps:
        print(f"  {step.address}")
    print(f"\nTo look at this run in Prefect and MLflow:\n\n  {sys.argv[0]} ui")
    print(f"\nTo talk to the model, on a page and over OpenAI's API:\n\n  {sys.argv[0]} serve\n")
    return status


def command_serve(args: argparse.Namespace, open_store: Any) -> int:
    """A page and OpenAI's API over a model; also over the one that a name in MLflow's registry stands for just now."""
    if not args.address.startswith("models:/"):
        return command_serve_address(args, open_store)
    from flows.outbox import Refused, Unavailable
    from flows.registry import Name
    from flows.track import Tracker

    name, where = Name.of(args.address), read_settings(home=args.home, store=args.store)
    tracking_uri.check(where.tracking_uri)
    tracker, known = Tracker(where.tracking_uri), dict[str, Any]()

    def current() -> Any:
        address = tracker.ask(name.address)
        if address not in known:
            found = chosen(argparse.Namespace(**{**vars(args), "address": address}), open_store)
            known.clear()
            known[address] = dataclasses.replace(found, name=args.address)
        return known[address]

    try:
        current()
    except (Refused, Unavailable) as error:
        remedy = "`nanochat run tiny` registers nanochat-tiny, and MLflow's page (`nanochat ui`) lists what there is"
        raise ValueError(f"{args.address}: {str(error).rstrip('.')}: {remedy}") from error
    return command_serve_address(args, open_store, current)


def command_ui(args: argparse.Namespace, open_store: Any) -> int:
    """Prefect's and MLflow's pages, until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    where = read_settings(home=args.home)
    if args.stop:
        print("stopped" if server.stop(where) else "no server was running")
        return 0
    tracking_uri.check(where.tracking_uri)
    url = server.ensure(where)
    print(f"Prefect  {redacted(url.removesuffix('/api'))}", flush=True)
    database = tracking_uri.database_of(where.tracking_uri)
    if database is None:
        print(f"MLflow   {redacted(where.tracking_uri)}")
        return 0
    _prepare(where.tracking_uri, database)
    return _mlflow_page(where, database, server.free_port(args.mlflow_port))


def _mlflow_page(where: Settings, database: Path, port: int) -> int:
    """MLflow's server, until it or we are ended. RuntimeError: why it does not come up, or ended."""
    backend = ("--backend-store-uri", tracking_uri.absolute(where.tracking_uri))
    command = launch.python_command("mlflow", "server", *backend)
    command += ["--artifacts-destination", str(where.home / "mlartifacts")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = launch.child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    log = where.home / "mlflow-server.log"
    where.home.mkdir(parents=True, exist_ok=True)
    said_before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=where.home)
    try:
        deadline = time.monotonic() + server.START_SECONDS
        while child.poll() is None and not (up := server.listens(child.pid, port)) and time.monotonic() < deadline:
            time.sleep(0.3)  # what answers there may be somebody else's
        became = "ended"
        if child.poll() is None and up:
            print(f"MLflow   http://127.0.0.1:{port}")
            print("Ctrl-C ends MLflow's page; `nanochat ui --stop` ends Prefect's server.", flush=True)
            child.wait()
        elif child.poll() is None:
            became = f"does not listen after {server.START_SECONDS:.0f} s"
        cause = service_log.reason("MLflow", service_log.tail(log, said_before), log, database)
        raise RuntimeError(f"MLflow's server {became}: {cause}")
    finally:
        launch.end(child, server.END_SECONDS, child.send_signal)


def _prepare(uri: str, database: Path) -> None:
    """Makes MLflow's database as a run does, so that both never make it at once. RuntimeError: it cannot be made."""
    from flows import track

    warnings.simplefilter("ignore", DeprecationWarning)  # of the libraries underneath: nothing the user can do
    try:
        track.prepare(uri)
    except Exception as error:  # of SQLAlchemy, Alembic or MLflow: their kinds are track.py's to know
        cause = service_log.telling_line(str(error).split("\n", maxsplit=1)[0])
        parts = [cause.rstrip("."), service_log.remedy("MLflow", cause, database)]
        raise RuntimeError(f"MLflow's database {database} cannot be made: {'; '.join(filter(None, parts))}") from error


def _port(given: str) -> int:
    if given.isdecimal() and int(given) <= 65535:
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r}: give a port from 1 to 65535, or 0 for any free one")


def command_ls(args: argparse.Namespace, open_store: Any) -> int:
    """What the store holds."""
    store = open_store(args.store, args.home)
    rows = []
    for address in store.addresses():
        if not address.startswith(args.prefix):
            continue
        record = store.record(address)
        size = sum(entry["size"] for entry in record["files"].values())
        rows.append({"address": address, "bytes": size, "seconds": record["seconds"], "finished": record["finished"]})
    rows.sort(key=lambda row: row["finished"])
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["finished"]))
        print(f"{made}  {row['seconds']:>9.1f} s  {row['bytes'] / 1e6:>10.2f} MB  {row['address']}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The console script."""
    loopback.exempt()
    parser = argparse.ArgumentParser(prog="nanochat", description="from raw text to a model that chats")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = add_run(commands)
    made.add_argument("--demo", action="store_true", help="end with a chat, the scores and the addresses")
    made.set_defaults(command=command_run)
    add_commands(commands)
    commands.choices["serve"].set_defaults(command=command_serve)
    made = commands.add_parser("ui", help="open Prefect's and MLflow's pages")
    made.add_argument("--home", type=home_option, default="")
    made.add_argument("--mlflow-port", type=_port, default=5000)
    made.add_argument("--stop", action="store_true", help="end the Prefect server that was started in the background")
    made.set_defaults(command=command_ui)
    made = commands.add_parser("ls", help="what the store holds")
    made.add_argument("prefix", nargs="?", default="")
    made.add_argument("--json", action="store_true")
    made.add_argument("--home", type=home_option, default="")
    made.add_argument("--store", default="")
    made.set_defaults(command=command_ls)
    return run_command(parser, argv, open_any)


if __name__ == "__main__":
    sys.exit(main())
