"""The story: every stage from raw text to a registered model that chats, top to bottom.

A class is a stage: its header names what it takes, makes and where it runs, its fields are its knobs, its docstring its
documentation. The command line, the Prefect graph, the run form, the addresses, MLflow and the README are read off
these classes. Here is no work: that is in the file of nanochat/stages/ that has the stage's name.
"""

from __future__ import annotations

from typing import Literal

from nanochat.data.sources import environment_digest, parse_source
from nanochat.data.special_tokens import SPECIAL_TOKENS
from nanochat.tasks.mixture import parse_mixture
from nanochat.workflow.stage import STAGES, Stage, execution, identity  # noqa: F401 (STAGES: the list of the classes below)

MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json", "token_bytes.npy")
SCORE_FILES = ("scores.json", "samples.md")


class Download(Stage, makes=("index.json",), mapped=True):
    """Fetches the corpus, one part a shard; part 0 is the pinned validation shard."""

    corpus: str = identity("python-docs", "name of the corpus; python-docs is the embedded one, made on this machine")
    url: str = execution(
        "", "where the shards are: https://, s3:// or file:// with {index:05d}, or datasets:PATH/CONFIG/SPLIT"
    )
    num_shards: int = identity(1, "training shards to fetch", at_least=1, at_most=100_000, of_parts=False)
    validation_shard: int = identity(
        -1, "index of the pinned validation shard in the source; -1: the embedded corpus's own"
    )
    text_column: str = identity("text", "column of the shards that holds the text")
    revision: str = identity("", "hand-bumped when the same name stands for other text")
    environment: str = identity(
        "auto", "python-docs: digest of the versions of Python and packages; auto: of this machine"
    )
    timeout_seconds: float = execution(60.0, "a connection that gives nothing for so long is tried again", at_least=1)
    retries: int = execution(5, "attempts per shard, with exponential backoff", at_least=1)

    def check(self) -> None:
        parse_source(self)

    def resolved(self) -> Download:
        if self.corpus == "python-docs":
            return self.replaced(environment=environment_digest()) if self.environment == "auto" else self
        return self.replaced(environment="")

    def label(self) -> str:
        return self.corpus.replace("/", "-")

    def num_parts(self) -> int:
        return self.num_shards + 1


class WordCounts(Stage, takes=(Download,), makes=("index.json",), mapped=True):
    """Counts the words of every training shard, one part a shard, side by side."""

    max_chars: int = identity(250_000_000, "characters to count of each shard", at_least=1)
    doc_cap: int = identity(10_000, "characters taken of one document", at_least=1)
    threads: int = execution(0, "threads; 0: one per core", at_least=0)

    def label(self) -> str:
        return "words"


class Tokenizer(Stage, takes=(Download, WordCounts), makes=("tokenizer.json",)):
    """Learns the byte-level BPE tokenizer (in Rust) from the words of all training shards."""

    vocab_size: int = identity(32768, "tokens, the nine special ones included", at_least=256 + len(SPECIAL_TOKENS))

    def label(self) -> str:
        return f"v{self.vocab_size}"


class Tokenize(Stage, takes=(Download, Tokenizer), makes=("index.json", "token_bytes.npy"), mapped=True):
    """Turns text into packed rows of tokens, one part a shard, so that no GPU ever waits for a tokenizer."""

    sequence_len: int = identity(2048, "tokens a row: the context of the model", at_least=8)
    packing: Literal["best_fit", "stream"] = identity(
        "best_fit",
        "best_fit: rows start with a document, what does not fit is cropped; stream: cut anywhere, nothing lost",
    )
    buffer_docs: int = identity(1000, "documents among which best_fit looks for one that fits", at_least=1)
    threads: int = execution(0, "threads; 0: one per core", at_least=0)

    def label(self) -> str:
        return f"t{self.sequence_len}"


class TaskData(Stage, makes=("index.json",)):
    """Fetches the data of the real chat tasks, so that no training process ever opens a socket."""

    tasks: str = identity(
        "",
        "real tasks to fetch, comma-separated (smoltalk, mmlu, gsm8k, arc_easy, arc_challenge, humaneval); generated ones need none",
    )
    revision: str = identity("", "hand-bumped when the same names stand for other data")
    source: str = execution("", "folder with JSON lines (TASK_SPLIT.jsonl); empty: Hugging Face `datasets`")

    def label(self) -> str:
        return self.tasks.replace(" ", "").replace(",", "-") or "generated"


class ModelStage(Stage, abstract=True):
    """What all stages that run a model have in common."""

    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where the model runs")
    dtype: Literal["auto", "bfloat16", "float32"] = execution(
        "auto", "of the matrix products; auto: bfloat16 where the processor has it"
    )


class Trained(ModelStage, abstract=True):
    """What all stages that train have in common."""

    seed: int = identity(1, "of the initial weights, the order of the data and the samples", at_least=0)
    num_steps: int = identity(0, "optimizer steps; 0: as the horizon or one epoch says", at_least=0)
    device_batch_size: int = execution(32, "rows per rank and forward pass; lower it when memory runs out", at_least=1)
    num_ranks: int = execution(1, "processes, one per GPU", at_least=1)
    compile: bool = execution(True, "compile the model: seconds once, then about twice as fast")
    log_every: int = execution(10, "steps between two logged metrics", at_least=1)
    eval_every: int = execution(0, "steps between two looks at the validation loss; 0: only at the end", at_least=0)
    checkpoint_every: int = execution(0, "steps between two checkpoints; 0: as checkpoint_minutes says", at_least=0)
    checkpoint_minutes: float = execution(
        10.0, "minutes between two checkpoints, written while training goes on; 0: as checkpoint_every says", at_least=0
    )
    mirror_checkpoints: bool = execution(
        False, "keep the newest checkpoint in the store too, so that a machine that is lost costs minutes"
    )


class Pretrain(Trained, takes=(Tokenize, Tokenizer), makes=MODEL_FILES, on="gpu", version=2):
    """Pretrains a GPT whose every size follows from its depth."""

    depth: int = identity(
        20,
        "layers: the one dial; width, heads, batch, horizon, learning rates and decay follow",
        at_least=1,
        at_most=1000,
    )
    architecture: Literal["modern", "classic"] = identity(
        "modern", "classic: the plain model of the first write-ups; modern: what was learned since"
    )
    aspect_ratio: int = identity(64, "width = aspect_ratio * depth", at_least=1)
    head_dim: int = identity(128, "width of an attention head", at_least=2)
    kv_heads: int = identity(0, "heads of keys and values (grouped-query attention); 0: as many as heads", at_least=0)
    window_pattern: str = identity(
        "", "attention windows tiled over the layers, S short, L long; empty: the architecture's"
    )
    total_batch_size: int = identity(0, "tokens per optimizer step over all ranks; 0: as the depth says", at_least=0)
    tokens_per_parameter: float = identity(
        0.0, "horizon, where num_steps is 0; 0: the architecture's (classic 20, modern 12)", at_least=0, at_most=1e6
    )
    max_epochs: int = identity(
        1, "times the corpus may be gone through; more text needed than that is refused", at_least=1
    )
    # -1: what the architecture takes, in docs/hyperparameters.md (classic / modern)
    matrix_lr: float = identity(-1.0, "Muon's learning rate; -1: 0.02")
    embedding_lr: float = identity(-1.0, "AdamW's, of the embedding, times (width / 768)^-0.5; -1: 0.2 / 0.3")
    unembedding_lr: float = identity(-1.0, "AdamW's, of the head, times (width / 768)^-0.5; -1: 0.004 / 0.008")
    scalar_lr: float = identity(-1.0, "AdamW's, of the residual scalars; -1: 0.5")
    weight_decay: float = identity(-1.0, "Muon's decoupled decay; -1: 0 / as the depth says")
    warmup_steps: int = identity(-1, "steps of linear warm-up; -1: 0 / 40, or a tenth of a short run")
    warmdown_ratio: float = identity(-1.0, "share of the steps in which the rates fall; -1: 0.2 / 0.65", at_most=1)
    final_lr_frac: float = identity(-1.0, "the rates at the end, as a fraction; -1: 0 / 0.05", at_most=1)

    def check(self) -> None:
        if set(self.window_pattern) - set("SL"):
            raise ValueError(f"pretrain.window_pattern = {self.window_pattern!r}: use only the letters S and L")
        for knob, value in self.values("identity").items():
            if type(value) in (int, float) and value < 0 and value != -1:
                raise ValueError(f"pretrain.{knob} = {value}: take 0 or more, or -1 for what the architecture takes")

    def label(self) -> str:
        return f"d{self.depth}"


class BaseEval(ModelStage, takes=(Pretrain, Tokenize), makes=SCORE_FILES, on="gpu"):
    """Measures the base model: bits per byte on the pinned shard, CORE on the tasks at hand, samples."""

    eval_rows: int = identity(4096, "validation rows for bits per byte, or as many as there are", at_least=1)
    core: str = identity("", "CORE tasks, comma-separated labels or `all`; empty: none")
    core_max_per_task: int = identity(500, "examples per CORE task", at_least=1)
    core_revision: str = identity("", "hand-bumped when the CORE bundle is another one")
    core_data: str = execution("", "folder of the CORE bundle (core_meta.json and the JSON lines)")
    device_batch_size: int = execution(16, "rows per forward pass", at_least=1)


class Chat(Trained, abstract=True):
    """What midtraining and SFT have in common: a mixture of tasks in the conversation format."""

    mixture: str = identity("", "tasks and their weights, e.g. `smoltalk:460000, identity:2000`: rows taken of each")
    total_batch_size: int = identity(
        0, "tokens per optimizer step over all ranks; 0: as in the stage before", at_least=0
    )
    lr_frac: float = identity(1.0, "learning rates as a fraction of pretraining's", at_least=0)
    warmdown_ratio: float = identity(0.5, "share of the steps in which the learning rate falls", at_least=0, at_most=1)

    def check(self) -> None:
        parse_mixture(self.mixture, f"{self.name}.mixture")


class Midtrain(Chat, takes=(Pretrain, TaskData), makes=MODEL_FILES, on="gpu"):
    """Teaches the conversation format, multiple choice and tools; the loss is on all tokens."""


class ChatEval(ModelStage, abstract=True, work="chat_eval"):
    """What all evaluations of a chat model have in common."""

    tasks: str = identity("", "tasks to ask, comma-separated")
    max_problems: int = identity(200, "held-out problems of each task, or as many as there are", at_least=1)
    max_new_tokens: int = identity(512, "tokens of an answer", at_least=1)
    temperature: float = identity(0.0, "0: always the likeliest token", at_least=0)
    device_batch_size: int = execution(64, "conversations decoded together", at_least=1)


class ChatEvalMid(ChatEval, takes=(Midtrain, TaskData), makes=SCORE_FILES, on="gpu", version=2):
    """Asks the midtrained model held-out problems."""


class Sft(Chat, takes=(Midtrain, TaskData), makes=MODEL_FILES, on="gpu"):
    """Supervised finetuning: the loss is on what the assistant says."""


class ChatEvalSft(ChatEval, takes=(Sft, TaskData), makes=SCORE_FILES, on="gpu", version=2):
    """Asks the finetuned model held-out problems."""


class Rl(Trained, takes=(Sft, TaskData), makes=MODEL_FILES, on="gpu"):
    """Reinforcement learning on problems with a checkable answer (group-relative advantage, on-policy)."""

    task: str = identity("gsm8k", "the task whose reward is maximised")
    prompts_per_step: int = identity(16, "problems per optimizer step over all ranks", at_least=1)
    samples_per_prompt: int = identity(16, "answers sampled for each problem: the group", at_least=2)
    max_new_tokens: int = identity(256, "tokens of a sampled answer", at_least=1)
    temperature: float = identity(1.0, "of the samples", at_least=0.01)
    lr_frac: float = identity(0.05, "learning rates as a fraction of pretraining's", at_least=0)

    def most_tokens_per_step(self) -> int:
        return self.prompts_per_step * self.samples_per_prompt * self.max_new_tokens


class ChatEvalRl(ChatEval, takes=(Rl, TaskData), makes=SCORE_FILES, on="gpu", version=2):
    """Asks the model after reinforcement learning held-out problems."""


class Report(Stage, takes=(BaseEval, ChatEvalMid, ChatEvalSft, ChatEvalRl), makes=("report.md", "report.json")):
    """Joins the scores of all stages in one table."""


class Register(Stage, takes=(Midtrain, Sft, Rl, Report), makes=("versions.json",)):
    """Names the model versions with their scores; the gate decides which becomes champion."""

    metric: str = identity("chatcore", "score that the gate compares, on the same evaluation digest")
