"""The model and tokenizer that a benchmark is run with: a trained one, or random weights of a shape that is asked for.

Not here: what is measured.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from nanochat.data.special_tokens import SPECIAL_TOKENS
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.load import load
from nanochat.model.config import MIN_VOCAB, GPTConfig
from nanochat.model.device import arithmetic, compute_dtype
from nanochat.model.gpt import GPT

CPU = torch.device("cpu")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FAMILIES = {"modern": GPTConfig.modern, "classic": GPTConfig.classic}
TEXTS = Path("../shared/data/core")  # what a tokenizer is learned from, where there is something


def add_shape(parser: argparse.ArgumentParser, sequence_len: int) -> None:
    """The options that `model_and_tokenizer` reads."""
    parser.add_argument("--directory", type=Path, help="a trained model instead of random weights")
    parser.add_argument("--family", choices=FAMILIES, default="modern")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--sequence-len", type=int, default=sequence_len)
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, for one thread on a busy machine"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))


def model_and_tokenizer(options: argparse.Namespace) -> tuple[GPT, Tokenizer]:
    """On the CPU, in the precision that it multiplies fast; sets the number of threads."""
    torch.set_num_threads(options.threads)
    if options.directory:
        model, tokenizer = load(options.directory, "cpu", options.dtype)
    else:
        tokenizer = learned(options.vocab)
        family = FAMILIES[options.family]
        shape = {"width": options.width, "head_dim": options.head_dim}
        model = random_weights(family(options.depth, tokenizer.vocab_size, options.sequence_len, **shape))
        model.compute_dtype = compute_dtype(options.dtype, CPU)
    return model.requires_grad_(False).eval(), tokenizer


def random_weights(config: GPTConfig) -> GPT:
    """None of them zero, so that every part of the model changes what it says."""
    model = GPT(config)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def learned(vocab_size: int) -> Tokenizer:
    """A tokenizer of about so many tokens: of the bundle's text where it is there and nanobpe is, else of bytes."""
    files = sorted(TEXTS.glob("*.jsonl"))
    if not files or vocab_size <= MIN_VOCAB:
        return filled(vocab_size)
    try:
        import nanobpe
    except ImportError:
        return filled(vocab_size)
    texts = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")[:1000]]
    vocabulary = nanobpe.train(texts, vocab_size=vocab_size - len(SPECIAL_TOKENS))
    return Tokenizer(tuple(vocabulary.tokens), vocabulary.pattern)


def filled(vocab_size: int) -> Tokenizer:
    """Every byte, and pairs of bytes up to the size: none of them ever merged, but the head is as wide as asked."""
    pairs = (bytes((a, b)) for a in range(128, 256) for b in range(256))
    tokens = [bytes([byte]) for byte in range(256)]
    return Tokenizer((*tokens, *(next(pairs) for _ in range(vocab_size - len(SPECIAL_TOKENS) - len(tokens)))))


def described(options: argparse.Namespace, model: GPT) -> str:
    """What was measured with what, for the line above a table."""
    config = model.config
    shape = f"V{config.vocab_size} D{config.n_embd} L{config.n_layer} T{config.sequence_len}"
    kind = options.directory or f"{options.family}, random weights"
    machine = arithmetic(model.compute_dtype, CPU)
    load_1, load_5, _ = os.getloadavg()
    return (
        f"{shape} ({kind}), {model.num_parameters():,} parameters, torch {torch.__version__}, {machine}, "
        f"{options.threads} threads, {options.clock} seconds; load {load_1:.1f}, {load_5:.1f}\n"
    )
