"""Tool calls inside a stream of tokens: what stands between <|python_start|> and <|python_end|> is answered at once.

The answer, <|output_start|> result <|output_end|>, is forced upon the model instead of what it would have said. A call
that the calculator cannot answer is answered with `error`, so that no call stays open and the model can learn from it.
Only rows in which something happens are looked at one by one. Not here: the calculator (nanochat/tools/calculator.py),
sandboxed code.
"""

from typing import TYPE_CHECKING

import numpy as np

from nanochat.tools.calculator import evaluate

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

FAILED = "error"


class ToolCalls:
    """The open calls and pending answers of `num_rows` rows that all write their next token at the same time."""

    def __init__(self, tokenizer: "Tokenizer", num_rows: int) -> None:
        self.tokenizer = tokenizer
        self.start, self.end = tokenizer.special("<|python_start|>"), tokenizer.special("<|python_end|>")
        self.before, self.after = tokenizer.special("<|output_start|>"), tokenizer.special("<|output_end|>")
        self.opened = np.full(num_rows, -1)  # (N,) column after <|python_start|>, -1: no call open
        self.pending: dict[int, list[int]] = {}  # by row, the next forced token last

    def force(self, tokens: np.ndarray) -> np.ndarray:
        """Puts pending answers in place of what was sampled, (N,) in place; returns (N,) bool, True where it was."""
        forced = np.zeros(len(tokens), dtype=bool)
        for row in list(self.pending):
            tokens[row], forced[row] = self.pending[row].pop(), True
            if not self.pending[row]:
                del self.pending[row]
        return forced

    def watch(self, tokens: np.ndarray, spoken: np.ndarray, column: int) -> None:
        """Takes note of what the model said in `column` of `tokens` (N, steps), where `spoken` (N,) is True."""
        latest = tokens[:, column]
        self.opened[spoken & (latest == self.start)] = column + 1
        for row in np.flatnonzero(spoken & (latest == self.end) & (self.opened >= 0)).tolist():
            call = self.tokenizer.decode(tokens[row, self.opened[row] : column].tolist())
            result = evaluate(call)
            answer = self.tokenizer.encode(FAILED if result is None else result)
            self.pending[row] = [self.after, *reversed(answer), self.before]
            self.opened[row] = -1
