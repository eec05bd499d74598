"""The arrows and the sizes of the house, drawn statically and by importing with the forbidden modules blocked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.text_encoding import unsaid

ROOT = Path(__file__).parents[1]
ORCHESTRATION = {"prefect", "mlflow", "boto3", "botocore", "pydantic", "flows"}
# What a module of the library may import at its top beyond the standard library and the library itself.
TENSORS = {"torch", "numpy", "safetensors"}
DATA = {"pyarrow", "datasets", "tiktoken", "nanobpe"}
DATA_FILES = {
    "columns",
    "corpus",
    "download",
    "python_docs",
    "word_counts",
    "tokenizer",
    "tokenize_shard",
    "task_data",
    "fetch",
    "huggingface",
}
DECLARATIONS = [
    "stage", "plan", "pipeline", "recipes", "corpus", "mixture", "scaling", "metrics", "store", "lease", "launch",
    "runner", "provenance", "explain", "estimate", "preflight", "tasks",
]  # fmt: skip
ONE_FILE = {"boto3": "flows/store.py", "botocore": "flows/store.py", "mlflow": "flows/track.py"}


def python_files(*rooms):
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path):
    """(top-level name, whether at the top of the file) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.module.split(".")[0], id(node) in top))
    return found


@pytest.mark.parametrize("path", python_files("nanochat"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_imports_no_orchestration_and_data_libraries_only_where_data_is(path):
    for name, _ in imports(path):
        assert name not in ORCHESTRATION, f"{path.name} imports {name}"
        if name in DATA:
            assert path.stem in DATA_FILES, f"{path.name} imports {name}"
        allowed = name in sys.stdlib_module_names or name in TENSORS | DATA | {"nanochat"}
        assert allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", python_files("flows"), ids=lambda path: str(path.relative_to(ROOT)))
def test_flows_never_import_torch_and_each_service_has_one_file(path):
    for name, _ in imports(path):
        assert name != "torch", path
        assert ONE_FILE.get(name, str(path.relative_to(ROOT))) == str(path.relative_to(ROOT)), f"{path} imports {name}"


def test_declarations_need_the_standard_library_only():
    script = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top not in sys.stdlib_module_names and top != 'nanochat':\n"
        "            raise ImportError(f'{name} is blocked')\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import importlib\n"
        f"for name in {DECLARATIONS}: importlib.import_module(f'nanochat.{{name}}')\n"
    )
    subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"], check=True)


def test_the_library_imports_with_orchestration_absent():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in python_files("nanochat")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {sorted(ORCHESTRATION | DATA)}: sys.modules[name] = None\n"
        "import importlib, threading, os\n"
        "before = (threading.active_count(), dict(os.environ))\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "import torch, logging\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not logging.getLogger().handlers\n"
        "assert before == (threading.active_count(), dict(os.environ)), 'importing did something'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_files_and_functions_are_small_and_named_for_what_they_hold():
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    for path in python_files("nanochat", "flows", "tests", "benchmarks"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        assert path.stem not in vague, path
        assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines"
        if path.relative_to(ROOT).parts[0] in ("nanochat", "flows"):
            assert ast.get_docstring(tree), f"{path} opens with no paragraph"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                limit = 80 if "train" in node.name or "loop" in node.name else 60
                assert size <= limit, f"{path}:{node.lineno} {node.name} has {size} lines"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}: bare except"


def test_the_repository_names_no_registry_and_holds_no_large_file():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    hosts = ["pypi" + ".org", "files.pythonhosted" + ".org", "proxy.golang" + ".org", "registry.npmjs" + ".org"]
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        assert path.stat().st_size <= 2**20, f"{name} is larger than 1 MiB"
        text = path.read_bytes().decode(errors="replace")
        assert not any(host in text for host in hosts), name


ROOMS = ("nanochat", "flows", "tests", "benchmarks", "deployments", "bpe/python")


@pytest.mark.parametrize("path", python_files(*ROOMS), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_read_or_written_in_the_encoding_of_the_locale(path):
    assert [f"{path.name}:{call.lineno}" for call in unsaid(path)] == []


SAYING = """
p.open("rb")
p.open(encoding="utf-8")
p.read_text("utf-8")
run(c, text=True, encoding="utf-8")
Image.open(p)
gzip.open(p)
subprocess.run(c)
"""
SILENT = """
p.open()
p.open("w")
LOG.open("a")
open(p)
io.open(p, "r")
gzip.open(p, "rt")
os.fdopen(3, "r")
p.read_text()
p.write_text("x")
run(c, text=True)
subprocess.call(c, text=1)
subprocess.check_output(c, errors="replace")
logging.FileHandler(p)
"""


@pytest.mark.parametrize(("text", "seen"), [(SAYING, set()), (SILENT, set(range(2, 15)))])
def test_a_call_that_says_no_encoding_is_seen(tmp_path, text, seen):
    (tmp_path / "a.py").write_text(text, encoding="utf-8")
    assert {call.lineno for call in unsaid(tmp_path / "a.py")} == seen
