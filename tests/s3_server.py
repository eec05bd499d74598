"""A real S3 server on loopback for the tests: versitygw where Go has put it, else moto's.

`serve(directory)` starts one on a free port and stops it at the end; `s3_server` is the fixture of it (import
`s3_server_fixture` into a test file). The environment variables that boto3 needs are in `S3Server.environment`. It does not test anything.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

ACCESS_KEY, SECRET_KEY = "test-access", "test-secret-key"
START_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    kind: str
    directory: Path  # versitygw keeps objects as files in here: directory/bucket/key

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> object:
        """A plain boto3 client: what somebody else would do to the same bucket."""
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
        return boto3.session.Session(**keys).client("s3", endpoint_url=self.endpoint)

    def create_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)


def find_versitygw() -> str | None:
    """Its path, if it is installed."""
    if found := shutil.which("versitygw"):
        return found
    if (go := shutil.which("go")) is None:
        return None
    answer = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False, encoding="utf-8")
    path = Path(answer.stdout.strip()) / "bin" / "versitygw"
    return str(path) if path.is_file() else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def serve(directory: Path, port: int = 0) -> Iterator[S3Server]:
    """Runs a server over a directory, which survives it (of versitygw; moto forgets)."""
    port = port or free_port()
    (directory / "objects").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    if binary := find_versitygw():
        command = [binary, "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(directory / "objects")]
    else:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (directory / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait_until_up(endpoint, process, directory / "server.log")
            yield S3Server(endpoint, "versitygw" if binary else "moto", directory / "objects")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(endpoint: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(endpoint, timeout=5):
                return
        except urllib.error.HTTPError as answer:  # it answers: without a signature there is nothing more to get
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the S3 server did not start: {log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session", name="s3_server")
def s3_server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve(tmp_path_factory.mktemp("s3")) as server:
        yield server
