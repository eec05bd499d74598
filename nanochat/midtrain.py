"""Midtraining: the base model learns the conversation format, multiple choice and tools.

The loss is on all tokens but the padding, the user's too: the model still learns what text is like. Promises and the
work are those of nanochat/chat_training.py.
"""

from typing import TYPE_CHECKING

from nanochat.chat_training import train_on_conversations
from nanochat.packing import HEARD
from nanochat.stage import Place

if TYPE_CHECKING:
    from nanochat.pipeline import Midtrain


def midtrain(stage: "Midtrain", place: Place) -> dict[str, float]:
    """Trains place["pretrain"] on the mixture; returns the final numbers."""
    return train_on_conversations(stage, place, place["pretrain"], least=HEARD)
