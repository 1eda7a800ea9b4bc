"""The documentation says what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from curate import named

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("queries/*.md")])


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_pages_are_not_stale():
    for path, text in generator().pages().items():
        assert path.is_file(), f"{path.name} is missing: make docs"
        assert path.read_text() == text, f"{path.name} is stale: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("kind", ["signals", "pools", "engines"])
def test_every_plug_in_is_named_in_the_docs(kind):
    text = (ROOT / "docs" / f"add-{'an' if kind[0] in 'e' else 'a'}-{kind[:-1]}.md").read_text()
    for name in named.available(kind):
        assert f"`{name}" in text, f"docs do not name {kind}/{name}"
