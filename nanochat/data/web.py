"""How an address on the web is asked for: quoted, with the credentials that are meant for it, through the right proxy.

Promises: an address is sent as RFC 3986 wants it, or refused before any network; a password in it and `HF_TOKEN` go to
the host they are for and to no other, also after a redirect; loopback is never asked through a proxy. It reads no body
and tries nothing twice (nanochat/data/fetch.py does).
"""

from __future__ import annotations

import base64
import datetime
import email.utils
import ipaddress
import re
import time
import urllib.request
from http.client import HTTPMessage
from typing import IO, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from nanochat import environment
from nanochat.redaction import redacted

KEPT = "%/:@!$&'()*+,;=~"  # in a path as they are: what RFC 3986 allows there, and what is quoted already
PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")  # that begins no escape
HUB = "huggingface.co"
TOKEN = "HF_TOKEN"


def quoted(url: str) -> str:
    """The address with blanks and letters beyond ASCII percent-encoded, and such a host by its IDNA name.

    Raises ValueError: a host or port that is none, or a control character.
    """
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in url):
        raise ValueError(f"{redacted(url)!r}: holds a control character: remove it")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except (ValueError, UnicodeError) as error:
        # not urllib's own words, which may quote a password
        raise ValueError(f"{redacted(url)!r}: is no address: host or port is none") from error
    if not host or any(letter.isspace() for letter in host):
        raise ValueError(f"{redacted(url)!r}: names no host that can be asked")
    authority = f"[{host}]" if ":" in host else host
    user = _escaped(parts.netloc.rpartition("@")[0], KEPT.replace("/", ""))
    authority = "".join((f"{user}@" if user else "", authority, f":{port}" if port else ""))
    return SplitResult(
        parts.scheme, authority, _escaped(parts.path, KEPT), _escaped(parts.query, KEPT + "?"), ""
    ).geturl()


def _escaped(text: str, kept: str) -> str:
    return quote(PERCENT.sub("%25", text), safe=kept)


def request(url: str) -> urllib.request.Request:
    """A request for the address, with the credentials that it names or that the environment has for its host."""
    parts = urlsplit(quoted(url))
    user, at, authority = parts.netloc.rpartition("@")
    made = urllib.request.Request(
        parts._replace(netloc=authority).geturl(), headers={"User-Agent": "nanochat", "Accept-Encoding": "identity"}
    )
    if at:
        encoded = base64.b64encode(":".join(map(unquote, user.partition(":")[::2])).encode()).decode()
        made.add_unredirected_header("Authorization", f"Basic {encoded}")
    elif is_hub(url) and (token := environment.text(TOKEN)):
        made.add_unredirected_header("Authorization", f"Bearer {token}")
    return made


def is_hub(url: str) -> bool:
    """Whether it is an address of Hugging Face's hub, which alone is shown its token."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return parts.scheme == "https" and (host == HUB or host.endswith(f".{HUB}"))


def opener() -> urllib.request.OpenerDirector:
    """Opens requests: through the environment's proxies, but for loopback, also after a redirect."""
    return urllib.request.build_opener(_Redirect(), _Proxies())


def is_loopback(host: str) -> bool:
    """Whether the host is this machine itself, by name or by number."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies; which one is asked anew for every address."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        return None if is_loopback(urlsplit(req.full_url).hostname or "") else super().proxy_open(req, proxy, type)


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Credentials go along to the same host only: urllib itself drops those that are added unredirected."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and _origin(made.full_url) == _origin(req.full_url):
            made.unredirected_hdrs.update(req.unredirected_hdrs)
        return made


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port


def retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait, from a number or a date (RFC 9110, 10.2.3); 0 where it says nothing."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        asked = email.utils.parsedate_to_datetime(text)
        at = asked if asked.tzinfo else asked.replace(tzinfo=datetime.UTC)  # every date of HTTP is of Greenwich
        return max(0.0, at.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
