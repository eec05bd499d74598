"""The model as MLflow's pyfunc flavour sees it: `_load_pyfunc` is the contract of a `loader_module`.

Takes a data frame, a list or a dict with a column `messages` or `prompt`, or plain strings; gives a list of answers
with tool calls shown. MLflow and pandas are not imported: a data frame is whatever has `to_dict`. Not here: serving.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.inference.chat import Chatbot

COLUMNS = ("messages", "prompt")
PARAMETERS = ("max_new_tokens", "temperature", "top_k", "seed")


def _load_pyfunc(path: str) -> "ChatModel":
    """What MLflow calls with the folder of the model's files. Raises ValueError where there is no model."""
    return ChatModel(Chatbot(Path(path)))


class ChatModel:
    """Answers conversations."""

    def __init__(self, bot: Chatbot) -> None:
        self.bot = bot

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """One answer to each row of `model_input`; `params` may set max_new_tokens, temperature, top_k and seed.

        Raises:
            ValueError: a row is no question, or a parameter is unknown.
        """
        params = dict(params or {})
        if unknown := sorted(params.keys() - set(PARAMETERS)):
            raise ValueError(f"unknown parameter {unknown[0]!r}: choose among {', '.join(PARAMETERS)}")
        return self.bot.answers([_question(row) for row in _rows(model_input)], **params)


def _rows(model_input: Any) -> Sequence[Any]:
    if hasattr(model_input, "to_dict"):  # a data frame
        return model_input.to_dict("records")
    if isinstance(model_input, Mapping):
        return _rows_of_columns(model_input)
    return [model_input] if isinstance(model_input, str) else list(model_input)


def _rows_of_columns(columns: Mapping[str, Any]) -> Sequence[Any]:
    """One conversation, or a column of them: {"prompt": "Hi"}, {"prompt": ["Hi", "Ho"]}, {"messages": [...]}."""
    value = columns.get("messages", columns.get("prompt"))
    single = isinstance(value, str) or (isinstance(value, Sequence) and value and isinstance(value[0], Mapping))
    if value is None or single:
        return [columns]
    return [{"messages" if "messages" in columns else "prompt": each} for each in value]


def _question(row: Any) -> str | Sequence[Mapping[str, Any]]:
    if isinstance(row, str):
        return row
    if isinstance(row, Mapping):
        for column in COLUMNS:
            if row.get(column):
                return row[column]
        if "role" not in row:
            raise ValueError(f"a row with columns {', '.join(map(str, row))}: needs one of {' or '.join(COLUMNS)}")
    if isinstance(row, Sequence) and row and all(isinstance(message, Mapping) for message in row):
        return row
    raise ValueError(f"a question of type {type(row).__name__}: give a text or a list of messages")
