"""Text on its way to a model: sources, shards, the tokenizer, the chat template, packed rows."""
