"""The promises of docs/design.md: imports point down, stages never meet, plug-ins keep their contract."""

import ast
import functools
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
    ["errors", "words", "strict_yaml"],
    ["arrow", "files", "storage", "compiled", "memory", "tar", "images", "named", "ranges"],
    ["shard", "rows", "networks", "clip"],
    ["dataset", "signal_files"],
    ["work"],
    ["engines", "shuffle", "crawl", "match", "pools", "benchmark"],
    ["measure"],
    ["signals"],
    ["queries", "harvest", "dedup", "filter", "train", "evaluate", "report", "doctor"],
    ["demo", "verify", "compare"],
    ["cli"],
    ["__main__"],
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
NAMES = [name for name in MODULES if name]


def layer(name: str) -> int:
    for depth, names in enumerate(LAYERS):
        if name.split(".")[0] in names:
            return depth
    raise AssertionError(f"curate/{name} stands in no layer of tests/test_architecture.py")


@functools.cache
def nodes(tree: ast.AST) -> list[ast.AST]:
    return list(ast.walk(tree))


@functools.cache
def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are written in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@functools.cache
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


def targets(name: str) -> list[str]:
    """The modules of curate that a module imports."""
    return list(filter(None, map(own, imported(MODULES[name]))))


def test_imports_point_down():
    faults = [f"curate.{name} imports curate.{target} from a higher layer"
              for name in NAMES for target in targets(name) if layer(target) > layer(name)]  # fmt: skip
    assert not faults


def test_stages_never_import_each_other():
    stage = {name: name.split(".")[0] for name in NAMES}
    faults = [f"curate.{name} imports curate.{target}" for name in NAMES if stage[name] in STAGES
              for target in targets(name) if target.split(".")[0] in STAGES - {stage[name]}]  # fmt: skip
    assert not faults


def below_the_top(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Import | ast.ImportFrom) and node not in tree.body for node in nodes(tree))


def test_imports_stand_at_the_top():
    faults = [f"curate.{name}.{node.name} imports inside the function" for name in NAMES
              if name != "cli" and below_the_top(MODULES[name]) for node in nodes(MODULES[name])
              if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and imported(node)]  # fmt: skip
    assert not faults


def test_modules_that_a_text_names_are_there():
    faults = [f"curate/{name}:{line} names {target}" for name in NAMES for line, target in named_by_texts(name)
              if target.removeprefix("curate.") not in MODULES]  # fmt: skip
    assert not faults


def named_by_texts(name: str) -> list[tuple[int, str]]:
    """(line, module of curate) of each call that imports what a text names."""
    found = []
    for call in (node for node in nodes(MODULES[name]) if isinstance(node, ast.Call) and node.args):
        function = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if function in ("import_module", "needed", "with_loops", "_torch") and isinstance(call.args[0], ast.Constant):
            target = call.args[0].value
            if function == "_torch" or target.startswith("curate."):
                found.append((call.lineno, target))
    return found


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


def test_every_module_says_its_idea_first():
    ideas = {name: (ast.get_docstring(MODULES[name]) or "").split("\n", 1)[0] for name in NAMES}
    assert not [name for name, idea in ideas.items() if not idea or len(idea) > 120]


def test_no_module_is_a_catch_all():
    assert not {name.rsplit(".", 1)[-1] for name in NAMES} & {"utils", "util", "helpers", "common", "base", "misc"}


def test_nothing_catches_every_exception():
    handlers = [(name, node) for name in NAMES for node in nodes(MODULES[name])
                if isinstance(node, ast.ExceptHandler)]  # fmt: skip
    faults = [f"curate.{name}:{node.lineno}" for name, node in handlers
              if node.type is None or ast.unparse(node.type) == "Exception"]  # fmt: skip
    assert not faults


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
        if (path.suffix == ".py" and not path.stem.startswith("__")) or (path / "__init__.py").is_file():
            assert path.name in readme, f"README.md does not say what {path.name} is"
