"""What clients may send and what they get, as OpenAI has it, with our own fields beside: the OpenAPI document's source.

Promises: a value out of its range is refused with the name of its field; a field that nobody knows is ignored, as
clients send many; a known field of OpenAI's that would change the answer and that we do not have is refused unless it
asks for nothing. Not here: what needs the model (lengths in tokens, whose turn it is).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_MESSAGES, MOST_PARTS = 512, 512
MOST_CHOICES, MOST_PROMPTS = 16, 16
MOST_STOPS, LONGEST_STOP = 4, 64
MOST_TOP = 20
LARGEST_TOKENS = 2**31 - 1


def _whole(given: Any) -> Any:
    """1.0 is an integer in JSON Schema (2020-12, section 6.1.1)."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


ToolDisplay = Literal["inline", "separate"]
StopText = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
TokenCount = Annotated[int, Field(ge=1, le=LARGEST_TOKENS), BeforeValidator(_whole)]
Choices = Annotated[int, Field(ge=1, le=MOST_CHOICES), BeforeValidator(_whole)]
One = Annotated[int, Field(ge=1, le=1), BeforeValidator(_whole)]
Top = Annotated[int, Field(ge=0, le=MOST_TOP), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), BeforeValidator(_whole)]
TokenId = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Schema(BaseModel):
    """Values are taken as they are: no text for a number, no number for a truth value."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class TextPart(Schema):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ToolPart(Schema):
    """A call of the calculator and what it answered."""

    type: Literal["tool"]
    input: str
    output: str


Texts = Annotated[list[TextPart], Field(max_length=MOST_PARTS)]
Parts = Annotated[list[TextPart | ToolPart], Field(max_length=MOST_PARTS)]


class SystemMessage(Schema):
    """What the assistant is to heed; it opens the first message of the user."""

    role: Literal["system", "developer"]
    content: str | Texts


class UserMessage(Schema):
    """A question."""

    role: Literal["user"]
    content: str | Texts


class AssistantMessage(Schema):
    """An earlier answer, as it was received: calls of the calculator in it become such again."""

    role: Literal["assistant"]
    content: str | Parts | None = None
    parts: Parts | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Schema):
    """Of a stream."""

    include_usage: bool | None = Field(None, description="a last chunk tells the tokens")


class ResponseFormat(Schema):
    """Text is all there is."""

    type: Literal["text"]


class SamplingFields(Schema):
    """How the next token is chosen. null is the default."""

    model: str = Field("", description="a name of /v1/models; empty: the model that is served")
    n: Choices | None = Field(None, description="answers to one prompt (1)")
    stream: bool | None = Field(None, description="send the answer as it is made, as server-sent events")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token each time (0.6)")
    top_k: TokenCount | None = Field(None, description="among so many likeliest tokens (50)")
    top_p: float | None = Field(None, gt=0, le=1, description="among the likeliest tokens that make up so much (1)")
    min_p: float | None = Field(
        None, ge=0, le=1, description="among those so many times as likely as the likeliest (0)"
    )
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, description="of tokens that are there already (1: none)"
    )
    max_tokens: TokenCount | None = Field(None, description="at most so many tokens an answer")
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    seed: Seed | None = Field(None, description="the same seed, the same answer")
    frequency_penalty: Zero | None = Field(None, description="not here: use repetition_penalty")
    presence_penalty: Zero | None = Field(None, description="not here: use repetition_penalty")
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(None, description="not here")
    user: str | None = Field(None, description="not looked at")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: TokenCount | None = Field(None, description="goes before max_tokens")
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    response_format: ResponseFormat | None = None
    tool_display: ToolDisplay = Field("inline", description="calls of the calculator within the text, or beside it")
    truncation: Literal["disabled", "auto"] = Field(
        "disabled", description="a conversation beyond the context: refused, or its oldest turns are forgotten"
    )


class CompletionRequest(SamplingFields):
    """POST /v1/completions: text, or token ids, that the model goes on with."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    logprobs: Top | None = None
    echo: Literal[False] | None = Field(None, description="not here")
    suffix: Annotated[str, Field(max_length=0)] | None = Field(None, description="not here")
    best_of: One | None = Field(None, description="not here: use n")

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One text or list of ids each."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [given for given in self.prompt if isinstance(given, int)]
        return [ids] if ids else [given for given in self.prompt if not isinstance(given, int)]


class Error(Schema):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Schema):
    """What every refusal says."""

    error: Error


class PromptDetails(Schema):
    cached_tokens: int


class Usage(Schema):
    """Tokens read and said."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    forgotten_turns: int
    prompt_tokens_details: PromptDetails


class Timings(Schema):
    """Seconds from the request's arrival."""

    first_token_seconds: float
    total_seconds: float
    tokens_per_second: float


class TopLogProb(Schema):
    token: str
    logprob: float
    bytes: list[int] | None


class LogProb(TopLogProb):
    top_logprobs: list[TopLogProb]


class ChatLogProbs(Schema):
    content: list[LogProb]


class AnswerMessage(Schema):
    role: Literal["assistant"]
    content: str
    parts: list[TextPart | ToolPart] | None = None
    refusal: None = None


FinishReason = Literal["stop", "length"]


class ChatChoice(Schema):
    index: int
    message: AnswerMessage
    logprobs: ChatLogProbs | None
    finish_reason: FinishReason


class ChatCompletion(Schema):
    """An answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class CompletionLogProbs(Schema):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Schema):
    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: FinishReason


class Completion(Schema):
    """How the text goes on."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: Timings


class ModelCard(Schema):
    """A model that is served. What stands behind owned_by is ours."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    address: str
    context: int
    parameters: int
    description: str
    recipe: str | None


class ModelList(Schema):
    object: Literal["list"]
    data: list[ModelCard]


class Health(Schema):
    status: Literal["ok"]


class Ready(Schema):
    status: Literal["ready"]
    model: str
