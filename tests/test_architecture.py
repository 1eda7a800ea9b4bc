"""The promises of docs/design.md: imports point down, stages never meet, plug-ins keep their contract."""

import ast
import inspect
from pathlib import Path

import click
import pytest

from curate import named
from curate.cli import main

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "curate"
# lowest first; a module may import from its own layer or a lower one
LAYERS = [
    ["errors"],
    ["arrow", "files", "storage", "memory", "tar", "images", "named"],
    ["shard", "rows", "networks", "clip"],
    ["dataset", "signal_files"],
    ["work"],
    ["engines", "crawl", "match", "pools", "benchmark"],
    ["measure"],
    ["signals"],
    ["queries", "harvest", "dedup", "filter", "train", "evaluate", "report", "doctor"],
    ["demo", "verify", "compare"],
    ["cli"],
]
STAGES = {"queries", "harvest", "dedup", "filter", "train", "evaluate", "report"}
HEAVY = {"torch", "torchvision", "open_clip", "faiss", "img2dataset", "ray"}
LIGHT = ["cli", "files", "tar", "named", "shard", "dataset", "work", "measure", "harvest", "dedup", "filter", "report"]


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def layer(name: str) -> int:
    for depth, names in enumerate(LAYERS):
        if name.split(".")[0] in names:
            return depth
    raise AssertionError(f"curate/{name} stands in no layer of tests/test_architecture.py")


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are written in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own(name: str) -> str | None:
    """The module of curate that an imported name lies in, without the leading 'curate.'."""
    parts = name.split(".")
    if parts[0] != "curate":
        return None
    for end in range(len(parts), 0, -1):
        candidate = ".".join(parts[1:end])
        if candidate in MODULES:
            return candidate
    return None


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_down(name):
    for target in filter(None, map(own, imported(MODULES[name]))):
        assert layer(target) <= layer(name), f"curate.{name} imports curate.{target} from a higher layer"


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in STAGES])
def test_stages_never_import_each_other(name):
    stage = name.split(".")[0]
    for target in filter(None, map(own, imported(MODULES[name]))):
        assert target.split(".")[0] not in STAGES - {stage}, f"curate.{name} imports curate.{target}"


@pytest.mark.parametrize("name", [name for name in MODULES if name and name != "cli"])
def test_imports_stand_at_the_top(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not imported(node), f"curate.{name}.{node.name} imports inside the function"


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_modules_that_a_text_names_are_there(name):
    for call in (node for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call) and node.args):
        function = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if function in ("import_module", "needed", "_torch") and isinstance(call.args[0], ast.Constant):
            target = call.args[0].value
            if function == "_torch" or target.startswith("curate."):
                assert target.removeprefix("curate.") in MODULES, f"curate/{name}:{call.lineno} names {target}"


def reachable(name: str, seen: set[str]) -> set[str]:
    """Every top-level package that importing a module of curate pulls in."""
    packages = set()
    for target in imported(MODULES[name]):
        inside = own(target)
        if inside is None:
            packages.add(target.split(".")[0])
        for parent in [inside] if inside else []:
            steps = [".".join(parent.split(".")[:end]) for end in range(1, parent.count(".") + 2)]
            for step in steps:
                if step in MODULES and step not in seen:
                    seen.add(step)
                    packages |= reachable(step, seen)
    return packages


@pytest.mark.parametrize("name", LIGHT)
def test_heavy_packages_stay_in_leaf_files(name):
    if name == "cli":
        top = ast.Module([node for node in MODULES["cli"].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert not {target.split(".")[0] for target in imported(top)} & (HEAVY | {"pyarrow", "numpy", "duckdb"})
    else:
        assert not reachable(name, {name}) & HEAVY


def test_open_clip_and_torchvision_come_from_one_module():
    """It leaves out what few models use; where another imported them first, that would be loaded after all."""
    found = {name for name, tree in MODULES.items() for target in imported(tree)
             if target.split(".")[0] in {"open_clip", "torchvision"}}  # fmt: skip
    assert found == {"clip.lean"}


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_every_module_says_its_idea_first(name):
    docstring = ast.get_docstring(MODULES[name])
    assert docstring, f"curate/{name} has no docstring"
    assert len(docstring.split("\n", 1)[0]) <= 120


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_no_blanket_except_and_no_catch_all_file(name):
    assert name.rsplit(".", 1)[-1] not in {"utils", "util", "helpers", "common", "base", "misc"}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            assert caught, f"curate.{name}:{node.lineno} catches everything"
            assert caught != "Exception", f"curate.{name}:{node.lineno} catches Exception"


@pytest.mark.parametrize("name", named.available("signals"))
def test_every_signal_honours_its_contract(name):
    cls = named.plugin("signals", named.parse(name))
    assert isinstance(cls.reads, tuple)
    assert callable(cls.measure)
    assert getattr(cls, "distance", None) in (None, "equal", "hamming", "cosine")
    if getattr(cls, "distance", None) in ("hamming", "cosine"):
        assert isinstance(cls.threshold, int | float)


@pytest.mark.parametrize("name", named.available("pools"))
def test_every_pool_honours_its_contract(name):
    cls = named.plugin("pools", named.parse(name))
    assert "path" in inspect.signature(cls).parameters
    assert callable(cls.parts)
    assert callable(cls.read)


@pytest.mark.parametrize("name", named.available("engines"))
def test_every_engine_honours_its_contract(name):
    if name == "ray":
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    assert list(inspect.signature(named.plugin("engines", named.parse(name)).map).parameters) == [
        "self",
        "task",
        "items",
    ]


@pytest.mark.parametrize("name", named.available("train.objectives"))
def test_every_objective_is_found_by_its_name(name):
    assert named.plugin("train.objectives", named.parse(name)).__doc__


def commands() -> dict[str, click.Command]:
    return dict(main.commands)


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_is_documented(name):
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"curate {name} {parameter.opts[0]} has no help"
    assert (ROOT / "docs" / "commands" / f"{name}.md").is_file(), "run: make docs"


def test_the_tree_in_the_readme_names_every_part():
    readme = (ROOT / "README.md").read_text()
    for path in sorted(PACKAGE.iterdir()):
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file():
            assert path.name in readme, f"README.md does not say what {path.name} is"
