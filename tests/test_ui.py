"""`nanochat ui` opens both pages without any service started by hand, and leaves nothing behind when told to stop."""

import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from flows import server, settings

COMMAND = [sys.executable, "-m", "flows.cli", "ui"]  # what `.venv/bin/nanochat ui` is


def page(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_command_opens_both_pages_and_takes_mlflow_along(tmp_path, number, code):
    # port 0: another `nanochat ui` of this machine, or another run of this test, wants the usual one too
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    child = subprocess.Popen(
        [*COMMAND, "--mlflow-port", "0", "--home", str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        addresses = dict(next(child.stdout).split() for _ in range(2))
        assert "<title>" in page(addresses["Prefect"])
        assert "MLflow" in page(addresses["MLflow"])
        child.send_signal(number)
        assert child.wait(30) == code
        with pytest.raises(OSError, match="refused"):
            page(addresses["MLflow"])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        where = settings.read({}, home=tmp_path)
        assert server.stop(where)
    assert server.running(where) is None
