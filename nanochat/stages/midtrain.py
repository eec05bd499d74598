"""Midtraining: the base model learns the conversation format, multiple choice and tools.

The loss is on all tokens but the padding, the user's too: the model still learns what text is like. Promises and the
work are those of nanochat/stages/chat_training.py.
"""

from typing import TYPE_CHECKING

from nanochat.data.conversation_packing import CONTEXT
from nanochat.stages.chat_training import train_on_conversations
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Midtrain


def run(stage: "Midtrain", ctx: StageContext) -> dict[str, float]:
    """Trains ctx["pretrain"] on the rows of midtrain_data; returns the final numbers."""
    return train_on_conversations(stage, ctx, "pretrain", "midtrain_data", min_label=CONTEXT)
