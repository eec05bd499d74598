"""The special tokens: their names, in the order of their ids, which follow those of the ordinary tokens.

Standard library only, so that the declarations can count them. What they mean: nanochat/data/chat_template.py.
"""

BOS = "<|bos|>"
SPECIAL_TOKENS = (
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
