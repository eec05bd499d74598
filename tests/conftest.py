"""Fixtures that several test files share; a session has one Prefect server and one finished run.

Torch is given one thread: the tests' models are tiny, and two threads that wait for each other by spinning cost more
than they bring as soon as the machine has anything else to do (78 s against 18 s for the optimizer's tests).
"""

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch; stages started by tests inherit it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under `make test &`: the commands that tests start and
    signal.signal(signal.SIGINT, signal.default_int_handler)  # interrupt would inherit it
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # likewise under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from tests.flow_home import home, made
from tests.prefect_server import deployed, empty_database, prefect_server

__all__ = ["deployed", "empty_database", "home", "made", "prefect_server"]

LONG = (
    "test_remote",
    "test_flow",
    "test_promises",
    "test_ui",
    "test_resume",
    "test_track",
    "test_server",
    "test_real_recipes",
    "test_memory",
    "test_gpu_kit",
    "test_replicas",
    "test_limits",
    "test_command",
    "test_scheduler",
    "test_rl_options",
    "test_page_keeping",
    "test_page_looks",
    "test_page_commands",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first: a worker has a file to itself, and the others fill the time after them."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def same_environment():
    """Nothing that a test or a library (MLflow's tracking URI) puts into the environment outlives the test."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
