"""`python -m nanochat`: the pipeline without an orchestrator, on a machine with nothing but torch.

`plan`, `explain`, `run` (the plain loop), `knobs`, `chat`, `serve`, `identity`, `readme`; `stage` and `ranks` are how
both runners start a stage's process. The console script `nanochat` (flows/cli.py) has the same verbs and what needs
the services.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat import environment, pipeline, recipes
from nanochat.artifacts import provenance
from nanochat.artifacts.store import Damaged, FileStore, Store
from nanochat.errors import unknown
from nanochat.locations import folder, folder_of, is_bucket
from nanochat.planning import estimate
from nanochat.planning.preflight import preflight
from nanochat.redaction import redacted
from nanochat.serve import arguments as serve_arguments
from nanochat.serve import source
from nanochat.workflow import explain, launch, runner
from nanochat.workflow.plan import Step, plan
from nanochat.workflow.runner import Job, Observer, Outcome, RunContext
from nanochat.workflow.stage import STAGES

OpenStore = Callable[[str, Path], Store]
assert pipeline.STAGES, "the declarations must have been read"


def open_folder(uri: str, home: Path) -> Store:
    """The library's own stores: a folder. ValueError for anything that needs the flows."""
    if is_bucket(uri):
        raise ValueError(f"store = {uri!r}: the plain runner has folders only: use `nanochat`, or name a folder")
    return FileStore(folder_of(uri) if uri else home / "store")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that takes a recipe."""
    names = ", ".join(recipes.RECIPES)
    parser.add_argument("recipe", help=f"one of {names}")
    parser.add_argument("settings", nargs="*", metavar="KNOB=VALUE", help="or STAGE.KNOB=VALUE")
    parser.add_argument("--only", action="append", default=[], metavar="STAGE", help="this stage and what it needs")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Where things lie."""
    store = environment.store()
    parser.add_argument("--home", type=home_option, default="", help="work, logs, default store (.nanochat)")
    parser.add_argument(
        "--store",
        type=lambda given: given if given.strip() else store,
        default=store,
        help="folder, file:// or s3:// (HOME/store)",
    )


def home_option(given: str) -> Path:
    """The option's folder; NANOCHAT_HOME's where it is blank, as `--home "$UNSET"` makes it."""
    try:
        return folder(given) if given.strip() else environment.home()
    except ValueError as error:
        source = "" if given.strip() else "NANOCHAT_HOME = "
        raise argparse.ArgumentTypeError(f"{source}{error}") from error


def planned(args: argparse.Namespace) -> list[Step]:
    """The steps that the arguments of `add_recipe` ask for."""
    return plan(recipes.apply(recipes.stages_of(args.recipe), args.settings), args.only)


def forced(args: argparse.Namespace, steps: list[Step]) -> frozenset[str]:
    """The stages named by --force, refused where the plan does not have them."""
    names = {step.name for step in steps}
    for name in args.force:
        if name not in names:
            raise ValueError(unknown("stage", name, names))
    return frozenset(args.force)


def command_plan(args: argparse.Namespace, open_store: OpenStore) -> int:
    """What would be done, and what it takes."""
    steps = planned(args)
    found = explain.statuses(steps, open_store(args.store, args.home))
    described = estimate.describe(args.recipe, steps, found, args.gpus)
    print(json.dumps(described, indent=1) if args.json else estimate.text(described))
    return 0


def command_explain(args: argparse.Namespace, open_store: OpenStore) -> int:
    """Why a stage is done or not; what an address holds; what two addresses differ in."""
    store = open_store(args.store, args.home)
    if "/" in args.target:
        if len(args.more) > 1:
            raise ValueError(f"explain compares two addresses, {1 + len(args.more)} were given")
        other = args.more[0] if args.more else None
        lines = explain.explain_address(args.target, other, store)
    else:
        steps = plan(recipes.apply(recipes.stages_of(args.target), args.more))
        lines = explain.lines_of(explain.statuses(steps, store))
    print("\n".join(lines))
    return 0


def command_knobs(args: argparse.Namespace, open_store: OpenStore) -> int:
    """All knobs of one stage or of every stage."""
    if args.stage and args.stage not in STAGES:
        raise ValueError(unknown("stage", args.stage, STAGES))
    for name in [args.stage] if args.stage else STAGES:
        stage = STAGES[name]
        print(f"{name}: {stage.summary()}")
        for knob in stage.knobs().values():
            kind = "" if knob.kind == "identity" else " (execution)"
            choices = f" one of {', '.join(knob.choices)};" if knob.choices else ""
            print(f"  {knob.name}={knob.default!r}{kind}:{choices} {knob.help}")
    return 0


def command_run(args: argparse.Namespace, open_store: OpenStore) -> int:
    """The plain runner."""
    steps = planned(args)
    store = open_store(args.store, args.home)
    force = forced(args, steps)
    preflight(steps, store, force, reads_buckets=False)
    facts = {**provenance.checkout_facts(Path(__file__).parents[1]), "pipeline_run": f"{args.recipe}-{time.time_ns()}"}
    context = RunContext(store, args.home, facts, force)
    for outcome in runner.run_plan(steps, context, Lines()):
        print(f"{'cached' if outcome.cached else 'made  '}  {outcome.address}  {outcome.note}")
    return 0


class Lines(Observer):
    """Progress of the plain runner: a line every few seconds."""

    def __init__(self) -> None:
        self.last = 0.0

    def started(self, job: Job) -> None:
        print(f"start   {job.address}", flush=True)

    def rows(self, job: Job, rows: list[dict[str, Any]]) -> None:
        if time.monotonic() - self.last > 5:
            self.last = time.monotonic()
            said = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in rows[-1].items()}
            values = " ".join(f"{name}={value}" for name, value in said.items() if name != "time")
            print(f"        {job.address}  {values}", flush=True)

    def resuming(self, job: Job, reason: str) -> None:
        print(f"again   {job.address}  {reason}", flush=True)

    def finished(self, job: Job, outcome: Outcome) -> None:
        print(f"done    {job.address}  {outcome.seconds:.1f} s", flush=True)


def command_serve(
    args: argparse.Namespace, open_store: OpenStore, provider: Callable[[], source.Source] | None = None
) -> int:
    """A page and OpenAI's API over a model, until it is ended. `provider` knows one that may change."""
    if provider is None and args.address.startswith("models:/"):
        raise ValueError(f"{args.address} is a name in MLflow's registry: use `nanochat`, or give an address")
    options = serve_arguments.options_of(args)
    if provider is None:
        model = chosen(args, open_store)
        provider = lambda: model  # noqa: E731
    from nanochat.serve.run import serve

    return serve(provider, options)


def chosen(args: argparse.Namespace, open_store: OpenStore) -> source.Source:
    """The model of `--directory`, of an address, or the newest chat model."""
    if args.directory is not None:
        return source.in_directory(args.directory)
    store = open_store(args.store, args.home)
    return source.in_store(store, args.address or newest_chat_model(store))


def command_chat(args: argparse.Namespace, open_store: OpenStore) -> int:
    """Talk to a model: the newest of a chat stage, or an address."""
    directory = args.directory
    if directory is None:
        model = chosen(args, open_store)
        directory = model.directory
        print(model.address, file=sys.stderr)
    os.environ.update(launch.bounded_spin(os.environ))  # before torch is loaded
    from nanochat.inference import chat, terminal
    from nanochat.inference.sampling import Sampling

    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_k)
    if len(args.prompt) <= 1:
        prompt = args.prompt[0] if args.prompt else None
        terminal.chat(directory, prompt, sampling, history=args.home / "chat_history")
        return 0
    said = chat.Chatbot(directory).answers(args.prompt, args.max_new_tokens, args.temperature, args.top_k)
    for question, answer in zip(args.prompt, said, strict=True):
        print(f"> {question}\n{answer}\n")
    return 0


def newest_chat_model(store: Store) -> str:
    """The chat model made last. ValueError where there is none."""
    chat_models = {stage.name for stage in pipeline.Register.takes if set(pipeline.MODEL_FILES) <= set(stage.makes)}
    made = [address for address in store.addresses() if address.split("/")[0] in chat_models]
    if not made:
        raise ValueError(f"no chat model in {store.uri}: make one with `nanochat run tiny`, or name its --store")
    return max(made, key=lambda address: (store.record(address) or {}).get("finished", 0.0))


def command_probe(args: argparse.Namespace, open_store: OpenStore) -> int:
    """How fast this machine multiplies matrices."""
    os.environ.update(launch.bounded_spin(os.environ))  # before torch is loaded
    from nanochat.planning.probe import matrix_rate

    rate = matrix_rate()
    print(json.dumps(dataclasses.asdict(rate)) if args.json else rate)
    return 0


def command_identity(args: argparse.Namespace, open_store: OpenStore) -> int:
    """Lets a model that the user names write conversations about the identity of ours."""
    from nanochat.data import chat_endpoint, identity_prompts, identity_writer

    if args.count < 1:
        raise ValueError(f"--count {args.count}: ask for at least one conversation")
    about = identity_prompts.ABOUT if args.about is None else args.about.read_text(encoding="utf-8").strip()
    if not about:
        raise ValueError(f"--about {args.about}: is empty: describe the assistant in it, or leave the option out")
    endpoint = chat_endpoint.Endpoint(args.endpoint, args.model, environment.text(chat_endpoint.KEY))

    def told(written: identity_writer.Written) -> None:
        left_out = f"{written.duplicates} duplicates and {written.unusable} unusable answers left out"
        print(f"{written.lines} of {args.count} conversations; {left_out}", flush=True)

    written = identity_writer.write(endpoint.ask, args.out, args.count, about=about, seed=args.seed, told=told)
    print(f"{args.out}: {written.lines} conversations, {written.found} of them were there")
    return 0


def command_stage(args: argparse.Namespace, open_store: OpenStore) -> int:
    """The inside of a stage's process."""
    from nanochat.stages.process import run_spec

    return run_spec(args.spec)


def command_ranks(args: argparse.Namespace, open_store: OpenStore) -> int:
    """The same under torchrun."""
    from nanochat.stages.process import run_ranks

    run_ranks(args.num_ranks, args.spec, args.logs)
    return 0


def command_readme(args: argparse.Namespace, open_store: OpenStore) -> int:
    """The README's generated parts."""
    from nanochat.readme import refresh

    return refresh(Path(args.file), check=args.check)


def add_commands(commands: Any) -> None:
    """The verbs of the library on an argparse sub-parser."""
    made = commands.add_parser("plan", help="what a run would do, and what it takes")
    add_recipe(made)
    add_place(made)
    made.add_argument("--json", action="store_true", help="the plan as data")
    made.add_argument("--gpus", default="", metavar="8xH100", help="estimate hours and cost on these")
    made.set_defaults(command=command_plan)
    made = commands.add_parser("explain", help="why a stage is done or not; what an address is made of")
    made.add_argument("target", help="a recipe, or an address")
    made.add_argument("more", nargs="*", help="KNOB=VALUE for a recipe; a second address to compare")
    add_place(made)
    made.set_defaults(command=command_explain)
    made = commands.add_parser("knobs", help="all knobs of a stage, or of all")
    made.add_argument("stage", nargs="?", default="")
    made.set_defaults(command=command_knobs)
    made = commands.add_parser("chat", help="talk to a model")
    made.add_argument("address", nargs="?", default="", help="of the model; the newest chat model otherwise")
    made.add_argument("--directory", type=folder, help="of a model, instead of an address")
    made.add_argument("--prompt", "-p", action="append", default=[], help="one question; repeatable")
    made.add_argument("--temperature", "-t", type=float, default=0.6)
    made.add_argument("--top-k", "-k", type=int, default=50)
    made.add_argument("--max-new-tokens", "-m", type=int, default=256)
    add_place(made)
    made.set_defaults(command=command_chat)
    made = serve_arguments.add_serve(commands)
    add_place(made)
    made.set_defaults(command=command_serve)
    made = commands.add_parser("probe", help="how fast this machine multiplies matrices, measured for a second")
    made.add_argument("--json", action="store_true")
    made.set_defaults(command=command_probe)
    _add_identity(commands)
    _add_processes(commands)


def _add_identity(commands: Any) -> None:
    made = commands.add_parser("identity", help="let a large model write conversations about who the model is")
    made.add_argument("--endpoint", required=True, metavar="URL", help="of OpenAI's kind; OPENAI_API_KEY is its key")
    made.add_argument("--model", required=True, help="as the endpoint calls it")
    made.add_argument("--count", type=int, default=1000, help="conversations in the file at the end (1000)")
    made.add_argument("--out", type=folder, required=True, metavar="FILE", help="JSON lines; what is there is kept")
    made.add_argument("--about", type=folder, metavar="FILE", help="text that describes the assistant, instead of ours")
    made.add_argument("--seed", type=int, default=1, help="of topics, personas and opening lines")
    made.set_defaults(command=command_identity)


def _add_processes(commands: Any) -> None:
    made = commands.add_parser("stage", help="run one stage from its spec file (how runners start a stage)")
    made.add_argument("spec", type=Path)
    made.set_defaults(command=command_stage)
    made = commands.add_parser("ranks", help="the same with several ranks, through torchrun")
    made.add_argument("num_ranks", type=int)
    made.add_argument("spec", type=Path)
    made.add_argument("--logs", type=Path, required=True)
    made.set_defaults(command=command_ranks)
    made = commands.add_parser("readme", help="write the README's generated parts, or check them")
    made.add_argument("--file", default="README.md")
    made.add_argument("--check", action="store_true")
    made.set_defaults(command=command_readme)


def add_run(commands: Any) -> argparse.ArgumentParser:
    """`run`, with what both entries have of it."""
    made = commands.add_parser("run", help="make what is missing")
    add_recipe(made)
    add_place(made)
    made.add_argument("--force", action="append", default=[], metavar="STAGE", help="make this stage again")
    made.set_defaults(command=command_run)
    return made


def _mend_streams() -> None:
    """A character that a terminal cannot show costs that character; a stream that was closed takes everything."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def run_command(parser: argparse.ArgumentParser, argv: list[str] | None, open_store: OpenStore) -> int:
    """Runs the command; errors of the user come as one line, exit code 2; failures of a stage as 1."""
    _mend_streams()
    args, late = parser.parse_known_args(argv)
    settings = [word for word in late if "=" in word and not word.startswith("-")]
    into = next((getattr(args, name) for name in ("settings", "more") if hasattr(args, name)), None)
    if late != settings or (late and into is None):
        parser.error(f"unknown arguments: {' '.join(word for word in late if word not in settings) or ' '.join(late)}")
    if into is not None:  # KNOB=VALUE may stand behind options
        into += late
    try:
        with launch.hanging_up_terminates():
            code = args.command(args, open_store)
            sys.stdout.flush()
            return code
    except ValueError as error:
        print(f"{parser.prog}: {redacted(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read has seen enough: `nanochat knobs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        return 128 + signal.SIGPIPE
    except (launch.StageFailed, launch.Stopped, Damaged, OSError, RuntimeError) as error:
        print(f"{parser.prog}: {redacted(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def main(argv: list[str] | None = None) -> int:
    """The library's command line."""
    parser = argparse.ArgumentParser(prog="python -m nanochat", description="nanochat without an orchestrator")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    add_run(commands)
    return run_command(parser, argv, open_folder)
