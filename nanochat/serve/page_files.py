"""The page's files as they lie in `page/`, read once, served from memory.

Promises: only what lies there is served, with its type, and revalidated by its digest. Not here: what the page does.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def install(app: FastAPI) -> None:
    """A route for every file; index.html is at /."""
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(FOLDER).as_posix()
            _add(app, "/" if name == "index.html" else f"/{name}", path)


def _add(app: FastAPI, route: str, path: Path) -> None:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {"etag": tag, "cache-control": "no-cache"}

    async def serve(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(content, 200, headers, media_type=kind)

    app.add_route(route, serve, methods=["GET"], include_in_schema=False)
