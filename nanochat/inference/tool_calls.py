"""Tool calls inside a stream of tokens: what stands between <|python_start|> and <|python_end|> is answered at once.

The answer, <|output_start|> result <|output_end|>, is forced upon the model instead of what it would have said. A call
that the calculator cannot answer is answered with `error`, so that no call stays open and the model can learn from it.
Not here: the calculator (nanochat/tools/calculator.py), sandboxed code.
"""

from typing import TYPE_CHECKING

from nanochat.tools.calculator import evaluate

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

FAILED = "error"
# how people read a call and its answer: [12*34 = 408]
SHOWN = {"<|python_start|>": "[", "<|python_end|>": "", "<|output_start|>": " = ", "<|output_end|>": "] "}


class ToolCalls:
    """The open calls and pending answers of rows, each with a number."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer
        self.start, self.end = tokenizer.special("<|python_start|>"), tokenizer.special("<|python_end|>")
        self.before, self.after = tokenizer.special("<|output_start|>"), tokenizer.special("<|output_end|>")
        self.calls: dict[int, list[int]] = {}  # by row, what was said since <|python_start|>
        self.pending: dict[int, list[int]] = {}  # by row, the next forced token last

    def forced(self, row: int) -> int:
        """The next token of a pending answer."""
        token = self.pending[row].pop()
        if not self.pending[row]:
            del self.pending[row]
        return token

    def watch(self, row: int, token: int) -> None:
        """Takes note of what the model said; only needed for a row in a call, or at a token that begins one."""
        if token == self.start:
            self.calls[row] = []
        elif row in self.calls and token == self.end:
            result = evaluate(self.tokenizer.decode(self.calls.pop(row)))
            answer = self.tokenizer.encode(FAILED if result is None else result)
            self.pending[row] = [self.after, *reversed(answer), self.before]
        elif row in self.calls:
            self.calls[row].append(token)

    def move(self, row: int, to: int) -> None:
        """The row is called `to` from now on."""
        for each in (self.calls, self.pending):
            if row in each:
                each[to] = each.pop(row)

    def forget(self, row: int) -> None:
        """The row has ended."""
        self.calls.pop(row, None)
        self.pending.pop(row, None)
