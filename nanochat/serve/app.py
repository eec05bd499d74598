"""The routes: OpenAI's interface over the model that is served, health, numbers, and the page.

Promises: the OpenAPI document at /openapi.json describes what is here; nothing is loaded from other hosts. Not here:
sockets and signals (run.py), who may come in (limits.py), what becomes of a request (exchange.py).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from nanochat.serve import conversation, errors, metrics, page_files, schema
from nanochat.serve.conversation import Prompt
from nanochat.serve.errors import ApiError, json_response
from nanochat.serve.exchange import Exchange
from nanochat.serve.limits import Access, Gate, Limits
from nanochat.serve.replicas import ReplicaSet
from nanochat.serve.schema import ChatRequest, CompletionRequest, SamplingFields
from nanochat.serve.serving import Serving
from nanochat.serve.shapes import Chat, Shape, Text

ALIAS = "nanochat"  # a name under which any model is served
TEMPERATURE, TOP_K = 0.6, 50  # of who says neither, as `nanochat chat` has them
COMPLETION_TOKENS = 16  # OpenAI's default there
SMALL = 4096  # characters that are encoded without a thread
T = TypeVar("T")


class Api:
    """What the routes do."""

    def __init__(self, serving: Serving, limits: Limits, counted: metrics.Metrics) -> None:
        self.serving, self.limits, self.metrics = serving, limits, counted

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answers a conversation."""
        arrived = time.monotonic()
        top = (body.top_logprobs or 0) if body.logprobs else None
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs: true", "invalid_value", "top_logprobs")
        asked = body.max_completion_tokens or body.max_tokens
        separate, forget = body.tool_display == "separate", body.truncation == "auto"
        with self._replicas(body.model) as replicas:
            messages, context = body.messages, replicas.context
            prompt: Prompt = await _thoughtfully(
                sum(len(str(message.content)) for message in messages),
                lambda: conversation.prompt_of(replicas.tokenizer, messages, context, asked, forget),
            )
            shape = Chat(replicas.source.name, replicas.tokenizer, [prompt.tokens], body.n or 1, top, separate,
                         prompt.forgotten)  # fmt: skip
            exchange = self._ask(replicas, body, [prompt.tokens], asked, top, shape, arrived)
        return await self._respond(exchange, body, request)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Goes on with a text."""
        arrived = time.monotonic()
        prompts = body.prompts
        with self._replicas(body.model) as replicas:
            size = sum(map(len, prompts))
            tokens = await _thoughtfully(size, lambda: [self._prompt(replicas, each) for each in prompts])
            shape = Text(replicas.source.name, replicas.tokenizer, tokens, body.n or 1, body.logprobs)
            asked = body.max_tokens or COMPLETION_TOKENS
            exchange = self._ask(replicas, body, tokens, asked, body.logprobs, shape, arrived)
        return await self._respond(exchange, body, request)

    def _prompt(self, replicas: ReplicaSet, given: str | list[int]) -> list[int]:
        tokenizer, context = replicas.tokenizer, replicas.context
        if isinstance(given, str):
            if len(given) > conversation.most_characters(tokenizer, context):
                conversation.too_long(context, "prompt")
            given = [tokenizer.bos, *tokenizer.encode(given)]
        if not given or not 0 <= min(given) <= max(given) < tokenizer.vocab_size:
            message = f"prompt: token ids must be from 0 to {tokenizer.vocab_size - 1}, one at least"
            raise ApiError(400, message, "invalid_value", "prompt")
        return given if len(given) < context else conversation.too_long(context, "prompt")

    def _ask(
        self,
        replicas: ReplicaSet,
        body: SamplingFields,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | None,
        top: int | None,
        shape: Shape,
        arrived: float,
    ) -> Exchange:
        """Queues every prompt, or none."""
        own_seed = random.getrandbits(31) if body.seed is None else body.seed % 2**63
        plain = body.temperature is None and body.top_k is None
        sampling = {
            "temperature": TEMPERATURE if body.temperature is None else body.temperature,
            "top_k": TOP_K if plain else body.top_k,
            "top_p": body.top_p or 1.0,
            "min_p": body.min_p or 0.0,
            "repetition_penalty": body.repetition_penalty or 1.0,
            "stop": list(body.stops),
            "top_log_probs": top,
        }
        tickets = []
        try:
            for index, prompt in enumerate(prompts):
                room = min(replicas.context - len(prompt), self.limits.new_tokens, max_tokens or replicas.context)
                own = {"seed": own_seed + index, "max_new_tokens": room}
                tickets.append(replicas.ask(prompt, {**sampling, **own}, body.n or 1))
        except ApiError:
            for ticket in tickets:
                ticket.cut_short()
            raise
        return Exchange(tickets, shape, self.metrics, arrived, self.limits.request_seconds)

    async def _respond(self, exchange: Exchange, body: SamplingFields, request: Request) -> Response:
        options = body.stream_options
        usage = bool(options and options.include_usage)
        return await exchange.respond(request.receive, bool(body.stream), usage)

    @contextmanager
    def _replicas(self, model: str) -> Iterator[ReplicaSet]:
        """Those that serve the model of this name. ApiError: none do."""
        if self.serving.draining:
            raise ApiError(503, "the server is shutting down", "shutting_down", retry_after=5)
        replicas = self.serving.current
        if replicas is None:
            raise ApiError(503, "the model is being loaded", "loading", retry_after=2)
        if model not in ("", ALIAS, replicas.source.name, replicas.source.address):
            message = f"there is no model {model[:100]!r} here: there is {replicas.source.name!r}, also as {ALIAS!r}"
            raise ApiError(404, message, "model_not_found", "model")
        with replicas.preparation():
            yield replicas

    async def models(self) -> Response:
        """The models that are served: one."""
        with self._replicas("") as replicas:
            return json_response({"object": "list", "data": [_card(replicas)]})

    async def model(self, model: str) -> Response:
        """A model by its name."""
        with self._replicas(model) as replicas:
            return json_response(_card(replicas))

    async def health(self) -> Response:
        """The process lives."""
        return json_response({"status": "ok"})

    async def ready(self) -> Response:
        """It takes requests."""
        with self._replicas("") as replicas:
            if not any(each.alive for each in replicas.replicas):
                raise ApiError(503, "no replica is running", "loading", retry_after=2)
            return json_response({"status": "ready", "model": replicas.source.name})

    async def numbers(self) -> Response:
        """For Prometheus."""
        return PlainTextResponse(self.metrics.text(_gauges(self.serving)), media_type=metrics.CONTENT_TYPE)


async def _thoughtfully(characters: int, work: Callable[[], T]) -> T:
    """Much text is worked on beside the event loop."""
    return work() if characters <= SMALL else await asyncio.to_thread(work)


def _card(replicas: ReplicaSet) -> dict[str, Any]:
    source = replicas.source
    return {
        "id": source.name, "object": "model", "created": source.created, "owned_by": "nanochat",
        "address": source.address, "context": replicas.context, "parameters": replicas.facts["parameters"],
        "description": source.description, "recipe": source.recipe,
    }  # fmt: skip


def _gauges(serving: Serving) -> list[tuple[str, str, metrics.Labels, float]]:
    told: list[tuple[str, str, metrics.Labels, float]] = []
    replicas = [(sets.source.address, *numbered) for sets in serving.sets for numbered in enumerate(sets.replicas)]
    waiting, running = (sum(len(getattr(each, name)) for each in serving.sets) for name in ("waiting", "running"))
    told.append(("requests_waiting", "Requests in the queue.", (), waiting))
    told.append(("requests_running", "Requests that a replica has.", (), running))
    told.append(("replicas_alive", "Processes that hold the model.", (), sum(each.alive for *_, each in replicas)))
    told.append(("replica_restarts", "Times that one was started again.", (), sum(s.restarts for s in serving.sets)))
    told.append(("resident_bytes", "Memory of the server's own process.", (), metrics.resident_bytes()))
    if serving.current is not None:
        told.append(("model", "The model that is served.", (("address", serving.current.source.address),), 1))
    for address, index, replica in replicas:
        labels = (("address", address), ("replica", str(index)))
        told += [(f"engine_{name}", "Of a replica's engine.", labels, float(value)) for name, value in
                 replica.statistics.items()]  # fmt: skip
    return told


EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "a chunk as JSON, an error, at the end [DONE]"}},
}
COUNTERS = {
    "answers_total": "Answers that came to their end, by how.",
    "prompt_tokens_total": "Tokens of prompts that were answered.",
    "generated_tokens_total": "Tokens of answers.",
    "clients_gone_total": "Clients that went away before their answer's end.",
    "model_changes_total": "Changes of the served model.",
    "http_requests_total": "Requests by route and status.",
}
DURATIONS = {
    "time_to_first_token_seconds": "From a request's arrival to the first token.",
    "request_seconds": "From a request's arrival to the end of its answer.",
}


def counted() -> metrics.Metrics:
    """The numbers of a server, at zero."""
    made = metrics.Metrics()
    for name, meaning in COUNTERS.items():
        made.counter(name, meaning)
    for name, meaning in DURATIONS.items():
        made.histogram(name, meaning)
    return made


def application(serving: Serving, limits: Limits, access: Access) -> ASGIApp:
    """Everything, behind its gate."""
    app = FastAPI(title="nanochat", version=_version(), docs_url=None, redoc_url=None)
    api = Api(serving, limits, serving.metrics)
    errors.install(app)
    _routes(app, api)
    page_files.install(app)
    inner: ASGIApp = Gate(app, limits, access, serving.metrics)
    if access.origins:
        headers = ["authorization", "content-type"]
        inner = CORSMiddleware(inner, access.origins, allow_methods=["GET", "POST"], allow_headers=headers)
    return inner


def _routes(app: FastAPI, api: Api) -> None:
    def told(*statuses: int, stream: bool = False) -> dict[int | str, dict[str, Any]]:
        answers: dict[int | str, dict[str, Any]] = {status: {"model": schema.ErrorBody} for status in statuses}
        if stream:
            answers[200] = {"content": {"text/event-stream": {"schema": EVENT}}}
        return answers

    refused = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503)
    known = (401, 403, 404, 429, 503)
    routes: list[tuple[str, str, Callable[..., Awaitable[Response]], Any, dict[int | str, dict[str, Any]]]] = [
        ("POST", "/v1/chat/completions", api.chat, schema.ChatCompletion, told(*refused, stream=True)),
        ("POST", "/v1/completions", api.completions, schema.Completion, told(*refused, stream=True)),
        ("GET", "/v1/models", api.models, schema.ModelList, told(*known)),
        ("GET", "/v1/models/{model:path}", api.model, schema.ModelCard, told(*known)),
        ("GET", "/health", api.health, schema.Health, told(403)),
        ("GET", "/ready", api.ready, schema.Ready, told(403, 503)),
    ]
    for method, path, endpoint, model, responses in routes:
        app.add_api_route(path, endpoint, methods=[method], response_model=model, responses=responses)
    text = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **told(401, 403)}
    app.add_api_route("/metrics", api.numbers, methods=["GET"], response_class=PlainTextResponse, responses=text)
    document = app.openapi

    def without_422() -> dict[str, Any]:
        """What FastAPI says of a validation error is not what we answer."""
        whole = document()
        for path in whole["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return whole

    app.openapi = without_422  # type: ignore[method-assign]


def _version() -> str:
    try:
        return version("nanochat")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"
