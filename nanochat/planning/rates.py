"""How fast machines do what the stages ask of them: the table by which a plan is priced, each number with its source.

On CPUs measured (docs/log.md names the command); on GPUs assumed until the kit has run on one: its `rates`
(docs/gpu.md) take the place of MFU and DECODE_SECONDS. Standard library only. Not here: prices and sizes of cards
(nanochat/model/gpus.py), what a stage has to do (costs.py).
"""

from __future__ import annotations

# Share of the bf16 peak that training reaches: nanochat's d20 to d26 ran at 0.50 to 0.59 on 8 H100s (2026), its d32 at
# 0.51 (2025-10). Assumed lower, and lower still for small models, whose kernels are short.
MFU = {4: 0.15, 8: 0.25, 12: 0.35, 20: 0.45}
FORWARD = 1 / 3  # of a training token's FLOPs
# A step of decoding reads all weights, and its kernels, a dozen a layer, are started one by one: seconds a layer.
DECODE_SECONDS = 100e-6
DECODE_BYTES = 1.5e12  # a second, of weights: half of an H100's memory bandwidth
COMPILE_SECONDS = {"cuda": 90.0, "cpu": 40.0}  # of a stage that trains: loss and gradients
START_SECONDS = 15.0  # of a stage on GPUs: processes, model, first kernels
CPU_STAGE_SECONDS = 3.0  # of a stage or part on a CPU

CPU_FLOPS = 65e9  # a second and core in fp32: AVX2, docs/log.md; four times as many with bf16 units
CPU_CORES = 2
DOWNLOAD_BYTES = 50e6  # a second: a hub's usual line
COUNT_BYTES = 300e6  # a second and core: nanobpe, bpe/README.md
ENCODE_BYTES = 90e6  # a second and core, to packed rows: benchmarks/tokenize_shard.py, docs/log.md
CONVERSATIONS = 4500.0  # a second and core, to packed rows: benchmarks/chat_rows.py
CHECKPOINT_SHARE = 0.03  # of the time of training

BYTES_PER_TOKEN = 4.6  # of English web text under 32,768 tokens
KEPT = {"best_fit": 0.68, "stream": 1.0}  # of the tokens: best_fit crops what does not fit (nanochat: 0.65, at 2,048)
# Tokens of a rendered conversation and of its prompt under a vocabulary of 32,768, and problems of the test split:
# means of a thousand (shared data, 2026-11-28); smoltalk's are estimated from the length of the reference's epochs.
CONVERSATION_TOKENS = {
    "smoltalk": (900, 450, 0),
    "mmlu": (76, 128, 14_042),
    "gsm8k": (176, 66, 1319),
    "arc_easy": (78, 77, 2376),
    "arc_challenge": (88, 87, 1172),
    "humaneval": (350, 145, 164),
    "arithmetic": (25, 15, 1000),
    "word_problems": (39, 24, 500),
    "identity": (26, 12, 500),
    "chitchat": (25, 11, 500),
    "counting": (36, 17, 4512),
    "spelling": (22, 13, 2256),
    "series": (40, 12, 300),
    "first_messages": (25, 10, 50),
    "identity_conversations": (64, 26, 424),
    "letter_counting": (88, 19, 2256),
}
ANSWER_TOKENS = {"gsm8k": 200, "humaneval": 250, "letter_counting": 90}  # of what a model says, where it is long
USUAL_ANSWER = 40
CORE_TOKENS = 2_600  # read for an example of CORE with all its options: 22 tasks of up to 500, ten shots for most
CORE_EXAMPLES = {"22": 91_000, "capped": 9_300}  # of all tasks: all there are, at most 500 of each
PACKED = 0.97  # of the tokens of packed rows of conversations, the rest is padding


def mfu(depth: int) -> float:
    """Share of the peak that a model of this depth reaches: of the nearest smaller one in the table."""
    return MFU[max((known for known in MFU if known <= depth), default=min(MFU))]
