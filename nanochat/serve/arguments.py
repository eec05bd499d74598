"""The arguments of `nanochat serve`, and what they come to. Standard library only until the command runs.

Not here: which model an address is (nanochat/cli.py), aliases of a registry (flows/cli.py).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nanochat import environment
from nanochat.locations import folder

if TYPE_CHECKING:
    from nanochat.serve.run import Options

KEY = "NANOCHAT_API_KEY"


def add_serve(commands: Any) -> argparse.ArgumentParser:
    """`serve` on an argparse sub-parser."""
    made: argparse.ArgumentParser = commands.add_parser("serve", help="a page and OpenAI's API over a model")
    made.add_argument("address", nargs="?", default="", help="of the model; the newest chat model otherwise")
    made.add_argument("--directory", type=folder, help="of a model, instead of an address")
    made.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1: for this machine only)")
    made.add_argument("--port", type=_whole(0, 65535), default=8000, help="0 for any free one (8000)")
    made.add_argument("--key", default="", help=f"that clients must send; {KEY} does not show it in `ps`")
    made.add_argument("--no-key", action="store_true", help="open to everybody who reaches --host")
    made.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name of this server besides")
    made.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="pages elsewhere that may ask")
    made.add_argument("--open", action="store_true", help="the page in a browser, where there is a screen")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--replicas", type=_whole(0, 64), default=0, help="of the model (0: one on every GPU, or one)")
    made.add_argument("--rows", type=_whole(0, 4096), default=0, help="answers made at a time (0: what memory allows)")
    made.add_argument("--compile", action="store_true", help="faster steps on a CPU, after some 15 s the first time")
    made.add_argument("--queue", type=_whole(0, 100_000), default=256, help="requests that may wait (256)")
    made.add_argument("--seconds", type=_seconds, default=120.0, help="a request may take (120)")
    made.add_argument("--max-tokens", type=_whole(1, 2**31 - 1), default=4096, help="of an answer, at most (4096)")
    made.add_argument("--drain", type=_seconds, default=30.0, help="seconds for answers under way at the end (30)")
    made.add_argument("--poll", type=_seconds, default=5.0, help="seconds between looks at an alias (5)")
    return made


def options_of(args: argparse.Namespace) -> Options:
    """The arguments as the server takes them. ValueError: one opens the server unsaid, or a library is missing."""
    try:
        from nanochat.serve.limits import Limits
        from nanochat.serve.replica import Placement
        from nanochat.serve.run import Options
    except ModuleNotFoundError as error:
        raise ValueError(f"the server needs {error.name}: install the packages of nanochat[serve]") from error

    limits = Limits(
        waiting=args.queue,
        new_tokens=args.max_tokens,
        request_seconds=args.seconds,
        drain_seconds=args.drain,
    )
    return Options(
        host=args.host,
        port=args.port,
        key=args.key.strip() or environment.text(KEY),
        no_key=args.no_key,
        allow_hosts=args.allow_host,
        allow_origins=args.allow_origin,
        placement=Placement(args.device, args.rows, args.compile),
        replicas=args.replicas,
        limits=limits,
        poll_seconds=args.poll,
        open_page=args.open,
    )


def _whole(least: int, most: int) -> Any:
    def read(given: str) -> int:
        if given.isascii() and given.isdecimal() and least <= int(given[:20]) <= most:
            return int(given)
        raise argparse.ArgumentTypeError(f"{given!r}: give a whole number from {least} to {most}")

    return read


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{given!r}: give seconds, from 0 to 1000000")
    return seconds
