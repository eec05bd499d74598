"""The arrows and the sizes of the house, drawn statically and by importing with the forbidden modules blocked."""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests.house import (
    DATA,
    GROUND,
    LIBRARIES,
    ONE_FILE,
    ORCHESTRATION,
    PAGE,
    ROOMS,
    ROOT,
    SERVER,
    TENSORS,
    TERMINAL,
    arrows,
    drawn,
    imports,
    python_files,
    room_of,
    rust_arrows,
)
from tests.text_encoding import unsaid


@pytest.mark.parametrize("path", python_files("nanochat", "flows"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_what_the_table_allows(path):
    room = room_of(path)
    if room == "__init__":
        return
    for module in imports(path):
        package, *inside = module.split(".")
        if package == "nanochat":
            assert inside[0] in {room, *GROUND, *ROOMS.get(room, set())}, f"{room} may not import {module}"
        elif package in TENSORS | DATA | TERMINAL or (package in SERVER and room != "flows"):
            assert package in LIBRARIES.get(room, set()), f"{room} may not import {package}"
        elif room != "flows":
            assert package in sys.stdlib_module_names, f"{room} may not import {package}"
        assert ONE_FILE.get(package, str(path.relative_to(ROOT))) == str(path.relative_to(ROOT)), f"{path}: {package}"


def test_the_table_names_what_there_is_and_its_arrows_go_down():
    there = {room_of(path) for path in python_files("nanochat")} - {"__init__"}
    assert there == {*ROOMS, *GROUND} - {"flows"}
    assert arrows() == ROOMS
    assert list(graphlib.TopologicalSorter(ROOMS).static_order()), "a circle of rooms"


def test_the_page_shows_the_arrows_that_there_are():
    text = PAGE.read_text(encoding="utf-8")
    assert drawn(text) == text, "python -m tests.house draws it anew"


@pytest.mark.parametrize("package", ["nanochat", "flows", "benchmarks"])
def test_no_circle_of_files(package):
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in python_files(package)
    }
    graph = {}
    for name, path in files.items():
        named = {module if module in files else module.rpartition(".")[0] for module in imports(path)}
        graph[name] = (named & files.keys()) - {name}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_no_circle_of_files_of_the_crate():
    found = rust_arrows()
    assert {"learn::cells", "count", "error"} <= found["learn"]
    list(graphlib.TopologicalSorter(found).static_order())


def test_flows_load_no_torch():
    """It would cost every command two seconds."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport flows.cli, flows.pipeline, flows.track\nprint('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, encoding="utf-8").stdout
    assert said.strip() == "False"


def declarations():
    """The modules of the rooms and files that have no libraries, with all that these import."""
    others = {*LIBRARIES, "__init__", "__main__", "pyfunc", "cli"}
    files = [path for path in python_files("nanochat") if room_of(path) not in others]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem != "__init__"]


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
        f"for name in {declarations()}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"], check=True)


def test_the_library_imports_with_orchestration_absent():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in python_files("nanochat")
        if path.name not in ("__init__.py", "__main__.py") and room_of(path) != "serve"
    ]
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {sorted(ORCHESTRATION | DATA | SERVER | TERMINAL)}: sys.modules[name] = None\n"
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


@pytest.mark.parametrize(
    "path",
    python_files("nanochat", "flows", "tests", "benchmarks", "deployments", "bpe/python"),
    ids=lambda path: str(path.relative_to(ROOT)),
)
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
