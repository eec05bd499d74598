"""What talks to this machine itself never goes through a proxy.

Promises: after `exempt()` this process and those that it starts reach 127.0.0.1, localhost and ::1 directly, whatever
proxy the environment names, in any spelling; what the user has exempted stays exempted, and other hosts keep their
proxy. httpx (Prefect), requests (MLflow), botocore (S3) and urllib all read these variables when a client is made.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import MutableMapping
from typing import Any

HOSTS = ("127.0.0.1", "localhost", "::1")
NAMES = ("no_proxy", "NO_PROXY")


def exempt(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds loopback to both spellings of NO_PROXY, each of which then holds what either held."""
    given = [host.strip().strip("[]") for name in NAMES for host in environment.get(name, "").split(",")]  # not [::1]:
    hosts = list(dict.fromkeys([*filter(None, given), *HOSTS]))  # httpx cannot read it
    if "*" in hosts:  # no proxy at all; requests knows the star only where it stands alone
        hosts = ["*"]
    for name in NAMES:
        environment[name] = ",".join(hosts)


def open_url(url: str, seconds: float) -> Any:
    """Opens an address of loopback, without any proxy. Raises OSError."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=seconds)
