"""A trained model and its tokenizer, ready to be asked.

Not here: the files themselves (model/weights.py), answers (engine.py).
"""

from pathlib import Path

from nanochat.data.tokenizer import Tokenizer
from nanochat.model.device import compute_dtype, device_of
from nanochat.model.gpt import GPT
from nanochat.model.weights import load_model


def load(artifact: Path, device: str = "auto", dtype: str = "auto", local_rank: int = 0) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer of a trained stage's artifact; `device` and `dtype` as the knobs of that name."""
    where = device_of(device, local_rank)
    model, _ = load_model(artifact, where)
    model.compute_dtype = compute_dtype(dtype, where)
    return model.eval(), Tokenizer.from_file(artifact / "tokenizer.json")
