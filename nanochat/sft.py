"""Supervised finetuning: the model learns to answer.

The loss is on what the assistant says, tool calls and the end of its turn included, and divided by the number of those
tokens in the whole step. Promises and the work are those of nanochat/chat_training.py.
"""

from typing import TYPE_CHECKING

from nanochat.chat_training import train_on_conversations
from nanochat.packing import SAID
from nanochat.stage import Place

if TYPE_CHECKING:
    from nanochat.pipeline import Sft


def sft(stage: "Sft", place: Place) -> dict[str, float]:
    """Trains place["midtrain"] on the mixture; returns the final numbers."""
    return train_on_conversations(stage, place, place["midtrain"], least=SAID)
