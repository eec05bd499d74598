"""Fetches one file over https:// so that it is whole or not there: resumed, checked, renamed at the end.

Promises: what was received survives the process and is continued with Range; If-Range keeps the halves of two versions
from being joined; a connection that gives nothing for `timeout` seconds is dropped; a refusal (404) and what is wrong
on this machine (a full disk, a certificate that is not trusted) fail at once, what may pass (5xx, resets, timeouts) is
tried again with exponential backoff and jitter, or when the server asks for it (Retry-After); no secret of the address
is written down. It does not look into the file.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import random
import re
import socket
import ssl
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from nanochat.artifacts.files import write_aside
from nanochat.data import web
from nanochat.redaction import redacted

T = TypeVar("T")
Progress = Callable[[int, int], None]
CHUNK = 1 << 20
LONGEST_WAIT = 60.0  # seconds between two attempts, where the server asks for no longer
LONGEST_ASKED = 600.0  # seconds that a server may ask for in Retry-After
TRANSIENT = (408, 425, 429)  # the 4xx that mean "later" (RFC 9110, RFC 8470, RFC 6585)
NETWORK = {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


class Truncated(Exception):
    """The connection ended before the file did."""


def fetch(
    url: str,
    path: Path,
    *,
    timeout: float,
    attempts: int,
    knob: str = "",
    progress: Progress = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """The file at `path`, and its sha256.

    Args:
        timeout: seconds without a byte after which an attempt is given up.
        knob: the name of `attempts`, or what else a person who is told that all of them failed could change.
        progress: called with bytes done and in total (0: unknown).

    Raises:
        ValueError: the server, or the proxy before it, refuses (4xx), or its certificate is not trusted.
        OSError: the file cannot be written here (disk full, no permission).
        ConnectionError: still not whole after all attempts; what there is stays for the next call.
    """
    half, shown = path.with_name(path.name + ".half"), redacted(url)
    web.quoted(url)  # refused, where it is none

    def whole() -> str:
        _attempt(url, half, timeout, progress)
        half.replace(path)
        _facts_path(half).unlink()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def refuse(error: urllib.error.HTTPError) -> None:
        if error.code == 416:  # what is here is not a beginning of what is there
            half.unlink(missing_ok=True)
        elif stays(error):
            refusal = f"the server refuses: {error.code} {error.reason}; {_remedy(url, error)}"
            raise ValueError(f"{shown}: {refusal}") from error

    return tried(whole, shown, attempts, refuse, knob=knob, sleep=sleep)


def tried(
    call: Callable[[], T],
    shown: str,
    attempts: int,
    refuse: Callable[[urllib.error.HTTPError], None],
    *,
    knob: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `call` gives, tried again after what may pass, with exponential backoff and jitter, or when the server asks.

    Args:
        shown: the address, for messages.
        refuse: raises where an answer of the server ends it.
        knob: what a person could change who is told that all attempts failed.

    Raises:
        ConnectionError: all attempts failed; and what `refuse` and `raise_what_stays` raise.
    """
    cause = Exception()
    for attempt in range(attempts):
        try:
            return call()
        except urllib.error.HTTPError as error:
            with error:
                refuse(error)
            asked, cause = asked_wait(error, shown), error
        except (OSError, http.client.HTTPException, Truncated) as error:
            raise_what_stays(error, shown)
            asked, cause = 0.0, error
        if attempt + 1 < attempts:
            sleep(max(asked, min(LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.5)))
    told = f"gave up after {attempts} attempts" + (f" ({knob})" if knob else "")
    raise ConnectionError(f"{shown}: {told}: {redacted(str(cause))}") from cause


def stays(error: urllib.error.HTTPError) -> bool:
    """Whether the server would answer so again."""
    return error.code < 500 and error.code not in TRANSIENT


def raise_what_stays(error: Exception, shown: str) -> None:
    """Raises what the next attempt would meet again: all but troubles of the network.

    Raises:
        ValueError: an untrusted certificate, a proxy that refuses, an address that is none.
        OSError: what is wrong on this machine.
    """
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        remedy = "set SSL_CERT_FILE to a bundle of certificates that knows it"
        raise ValueError(f"{shown}: the certificate is not trusted: {cause.verify_message}; {remedy}") from error
    if refused := re.match(r"Tunnel connection failed: (\d+)", str(cause)):  # so http.client names a proxy's answer
        if int(refused[1]) < 500 and int(refused[1]) not in TRANSIENT:
            raise ValueError(f"{shown}: the proxy refuses: {cause}; check https_proxy and no_proxy") from error
        return
    if isinstance(cause, str | http.client.InvalidURL):  # no such scheme, no such address
        raise ValueError(f"{shown}: {redacted(str(cause))}; check the address") from error
    if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
        return
    if isinstance(cause, OSError) and cause.errno not in NETWORK:
        raise error


def _remedy(url: str, error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403) and web.is_hub(url):
        return f"set {web.TOKEN} to a token that may read it, and accept its terms on the page of the data set"
    return "check the address"


def asked_wait(error: urllib.error.HTTPError, shown: str) -> float:
    """Seconds that the server asks to be left alone. ConnectionError: longer than anybody sits by."""
    asked = web.retry_after(error.headers.get("Retry-After"))
    if asked > LONGEST_ASKED:
        raise ConnectionError(
            f"{shown}: the server answers {error.code} and asks to be left alone for {asked:,.0f} s: try again then; "
            "what has come is kept"
        ) from error
    return asked


def _attempt(url: str, half: Path, timeout: float, progress: Progress) -> None:
    start, validator = _beginning(url, half)
    request = web.request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    with web.opener().open(request, timeout=timeout) as response:
        start, total = _span(response, start, validator, half)
        facts = {"url": _fingerprint(url), "validator": _validator(response), "total": total}
        if not start:  # first the bytes of another version go, then theirs become the facts of this one
            half.unlink(missing_ok=True)
        write_aside(_facts_path(half), json.dumps(facts))
        with half.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            done = _copy(response, file, start, total, progress)
    if total and done != total:
        raise Truncated(f"{done} of {total} bytes came")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, done: int, total: int, progress: Progress) -> int:
    while block := response.read1(CHUNK):
        file.write(block)
        done += len(block)
        progress(done, total)
    return done


def _fingerprint(url: str) -> str:
    """The address without writing it down: it may be signed."""
    return hashlib.sha256(url.encode()).hexdigest()


def _facts_path(half: Path) -> Path:
    return half.with_name(half.name + ".json")


def _beginning(url: str, half: Path) -> tuple[int, str]:
    """Bytes at hand that can be continued, and the validator they came with; (0, "") to start anew."""
    try:
        facts = json.loads(_facts_path(half).read_text(encoding="utf-8"))
        size = half.stat().st_size
    except (FileNotFoundError, ValueError):
        return 0, ""
    usable = facts["url"] == _fingerprint(url) and facts["validator"] and size
    return (size, facts["validator"]) if usable else (0, "")


def _validator(response: http.client.HTTPResponse) -> str:
    """What may stand in If-Range: a strong ETag, else the date (RFC 9110, 13.1.5); a weak one promises too little."""
    etag = response.headers.get("ETag", "")
    return "" if etag.startswith("W/") else etag or response.headers.get("Last-Modified", "")


def _span(response: http.client.HTTPResponse, asked: int, validator: str, half: Path) -> tuple[int, int]:
    """Where the body begins and how long the whole is (0: the server does not say)."""
    if response.status != 206:
        return 0, int(response.headers.get("Content-Length", 0))
    given = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", given)
    if found is None or int(found[1]) != asked or _validator(response) != validator:
        half.unlink()  # a server that takes no notice of If-Range: from the beginning next time
        raise Truncated(f"asked for {validator} from byte {asked}, was given {_validator(response)} {given}")
    return asked, int(found[2])
