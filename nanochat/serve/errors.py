"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} with a fitting status.

Promises: whatever is refused, by us, by FastAPI or by Starlette (validation, unknown route, wrong method), has this
body, names the field where there is one, and quotes nothing that was sent beyond what the message needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

CODES = {404: "unknown_url", 405: "method_not_allowed"}


class ApiError(Exception):
    """A request that gets an error for an answer."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": kind(self.status), "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Beside the body; Retry-After is in whole seconds (RFC 9110, section 10.2.3)."""
        headers = {"retry-after": str(max(1, round(self.retry_after)))} if self.retry_after else {}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        if self.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            headers["connection"] = "close"  # the rest of the body would be taken for the next request
        return headers

    def response(self) -> Response:
        return json_response(self.body, self.status, self.headers)


def kind(status: int) -> str:
    """The `type` of an error of this status."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    if status == HTTPStatus.UNAUTHORIZED:
        return "authentication_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON that any reader takes: no NaN, half a surrogate pair escaped."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Has the application answer its errors so."""
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = _telling(error.errors())
    sent = request.headers.get("content-type", "")
    if request.method == "POST" and sent.partition(";")[0].strip().lower() != "application/json":
        message = f"content type {sent!r}: send JSON with the header Content-Type: application/json"
        return ApiError(415, message, "unsupported_media_type").response()
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "")
        return ApiError(400, f"the body is no JSON: {reason}", "invalid_json").response()
    where = _field(problem["loc"])
    return ApiError(400, f"{where}: {problem['msg']}" if where else problem["msg"], "invalid_value", where).response()


def _telling(problems: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of what each variant of a union complains of, the problem that lies deepest in the first field."""
    first = _field(problems[0]["loc"]) or ""
    same = [problem for problem in problems if (_field(problem["loc"]) or "").startswith(first)]
    return max(same, key=lambda problem: len(_field(problem["loc"]) or ""))


def _field(loc: Sequence[str | int]) -> str | None:
    """`messages[1].content` of ("body", "messages", 1, "user", "content", "str"): names of variants are left out."""
    words = ""
    for word in loc[1:]:
        if isinstance(word, int):
            words += f"[{word}]"
        elif word.isidentifier() and word not in VARIANTS:
            words += f".{word}" if words else word
    return words or None


VARIANTS = {"str", "int", "user", "assistant", "system", "developer", "text", "tool"}  # as pydantic names a union's


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is nothing at {request.method} {request.url.path[:200]}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not for {request.url.path[:200]}"
    response = ApiError(error.status_code, message, CODES.get(error.status_code)).response()
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: its trace is in the log, not in the answer."""
    return ApiError(500, "the server failed on this request; its log says why", "internal_error").response()
