"""The story: every stage from raw text to a registered model that chats, top to bottom.

A class is a stage: its header names what it takes, makes and where it runs, its fields are its knobs, its docstring its
documentation. The command line, the Prefect graph, the run form, the addresses, MLflow and the README are read off
these classes. Here is no work: that is in the file of nanochat/stages/ that has the stage's name.
"""

from __future__ import annotations

from typing import Literal

from nanochat.data.corpora import CORPORA
from nanochat.data.sources import parse_source, resolve
from nanochat.data.special_tokens import SPECIAL_TOKENS
from nanochat.shared_knobs import Chat, ChatData, ChatEval, ModelStage, Trained
from nanochat.workflow.stage import STAGES, Stage, execution, identity  # noqa: F401 (STAGES: the list of the classes below)

MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json", "token_bytes.npy")
SCORE_FILES = ("scores.json", "samples.md")


class Download(Stage, makes=("index.json",), mapped=True):
    """Fetches the corpus, one part a shard; part 0 is the pinned validation shard."""

    corpus: str = identity(
        "python-docs",
        f"{', '.join(CORPORA)}; a folder or file of your own (/..., ~/..., ./...); or any name, with a url",
    )
    url: str = execution(
        "",
        "where the shards are: https://, s3:// or file:// with {index:05d}, or datasets:PATH/CONFIG/SPLIT; "
        "empty: as the corpus is known",
    )
    num_shards: int = identity(1, "training shards to fetch", at_least=1, at_most=100_000, of_parts=False)
    validation_shard: int = identity(
        -1, "index of the pinned validation shard in the source; -1: what the corpus itself holds out"
    )
    text_column: str = identity("text", "column of the shards, or field of JSON lines, that holds the text")
    revision: str = identity("", "hand-bumped when the same name stands for other text")
    environment: str = identity(
        "auto",
        "digest of what this machine has: versions of Python and packages (python-docs), or the files of a folder; "
        "auto: as they are now",
    )
    timeout_seconds: float = execution(60.0, "a connection that gives nothing for so long is tried again", at_least=1)
    retries: int = execution(5, "attempts per shard, with exponential backoff", at_least=1)

    def check(self) -> None:
        parse_source(self)

    def resolved(self) -> Download:
        return self.replaced(**resolve(self))

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
    words: Literal["embedded", "english"] = identity(
        "embedded", "words to spell and to count letters in; english: a list of 370,000 words, fetched"
    )
    words_source: str = execution(
        "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt",
        "URL or file of one word a line",
    )

    def label(self) -> str:
        return self.tasks.replace(" ", "").replace(",", "-") or "generated"


class CoreData(Stage, makes=("core.json",)):
    """Fetches the CORE benchmark and checks it, so that no evaluation ever opens a socket."""

    tasks: str = identity(
        "", "CORE tasks to fetch, comma-separated labels or `all`; empty: none, and nothing is fetched"
    )
    revision: str = identity("", "hand-bumped when the CORE bundle is another one")
    source: str = execution(
        "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip",
        "the published zip (https://, file://), or a folder or zip of this machine with core.yaml",
    )

    def label(self) -> str:
        named = self.tasks.replace(" ", "").split(",")
        return (named[0] or "none") if len(named) == 1 else f"{len(named)}-tasks"


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
    eval_rows: int = execution(64, "validation rows of a look on the way", at_least=1)
    final_eval_rows: int = execution(512, "validation rows at the end", at_least=1)
    core_every: int = execution(0, "steps between two looks at CORE, at 100 examples a task; 0: never", at_least=0)
    core_source: str = execution("", "folder of a core_data artifact, for core_every")

    def check(self) -> None:
        if self.core_every and not self.core_source:
            raise ValueError(
                f"pretrain.core_every = {self.core_every}: needs pretrain.core_source, an artifact of core_data"
            )
        if set(self.window_pattern) - set("SL"):
            raise ValueError(f"pretrain.window_pattern = {self.window_pattern!r}: use only the letters S and L")
        for knob, value in self.values("identity").items():
            if type(value) in (int, float) and value < 0 and value != -1:
                raise ValueError(f"pretrain.{knob} = {value}: take 0 or more, or -1 for what the architecture takes")

    def label(self) -> str:
        return f"d{self.depth}"


class BaseEval(ModelStage, takes=(Pretrain, Tokenize, CoreData), makes=SCORE_FILES, on="gpu", version=2):
    """Measures the base model: bits per byte on the pinned shard, CORE on the tasks that were fetched, samples."""

    eval_rows: int = identity(4096, "validation rows for bits per byte, or as many as there are", at_least=1)
    core_max_per_task: int = identity(500, "examples per CORE task", at_least=1)
    device_batch_size: int = execution(16, "rows per rank and forward pass", at_least=1)
    num_ranks: int = execution(1, "processes, one per GPU", at_least=1)


class MidtrainData(ChatData, takes=(Tokenizer, TaskData), makes=("index.json",), mapped=True, version=2):
    """Turns the conversations of midtraining into packed rows of tokens, so that no GPU waits for a tokenizer."""


class SftData(ChatData, takes=(Tokenizer, TaskData), makes=("index.json",), mapped=True, version=2):
    """The same for supervised finetuning."""


class Midtrain(Chat, takes=(Pretrain, MidtrainData), makes=MODEL_FILES, on="gpu"):
    """Teaches the conversation format, multiple choice and tools; the loss is on all tokens."""


class ChatEvalMid(ChatEval, takes=(Midtrain, TaskData), makes=SCORE_FILES, on="gpu", version=3):
    """Asks the midtrained model held-out problems."""


class Sft(Chat, takes=(Midtrain, SftData), makes=MODEL_FILES, on="gpu"):
    """Supervised finetuning: the loss is on what the assistant says."""


class ChatEvalSft(ChatEval, takes=(Sft, TaskData), makes=SCORE_FILES, on="gpu", version=3):
    """Asks the finetuned model held-out problems."""


class Rl(Trained, takes=(Sft, TaskData), makes=MODEL_FILES, on="gpu", version=2):
    """Reinforcement learning on problems with a checkable answer (group-relative advantage, on-policy)."""

    task: str = identity("gsm8k", "the task whose reward is maximised")
    prompts_per_step: int = identity(16, "problems per optimizer step over all ranks", at_least=1)
    samples_per_prompt: int = identity(16, "answers sampled for each problem: the group", at_least=2)
    max_new_tokens: int = identity(256, "tokens of a sampled answer", at_least=1)
    temperature: float = identity(1.0, "of the samples", at_least=0.01)
    lr_frac: float = identity(0.05, "learning rates as a fraction of pretraining's", at_least=0)
    eval_problems: int = execution(64, "problems of the test split asked at each look, or all", at_least=1)

    def most_tokens_per_step(self) -> int:
        return self.prompts_per_step * self.samples_per_prompt * self.max_new_tokens


class ChatEvalRl(ChatEval, takes=(Rl, TaskData), makes=SCORE_FILES, on="gpu", version=3):
    """Asks the model after reinforcement learning held-out problems."""


class Report(Stage, takes=(BaseEval, ChatEvalMid, ChatEvalSft, ChatEvalRl), makes=("report.md", "report.json")):
    """Joins the scores of all stages in one table."""


class Register(Stage, takes=(Midtrain, Sft, Rl, Report), makes=("versions.json",)):
    """Names the model versions with their scores; the gate decides which becomes champion."""

    metric: str = identity("chatcore", "score that the gate compares, on the same evaluation digest")
