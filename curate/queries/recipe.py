"""Which sources make a list, in which order and with which share of its places."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from curate import named
from curate.errors import CurateError
from curate.queries.dumps import Dumps

KIND = "queries.sources"
# Shares as MetaCLIP's list of 500,000 has them: half words, a fifth bigrams, the rest WordNet and titles. Packages have
# few titles; all of WordNet's terms and the places of the world stand in for them. What has no share takes the rest.
# wordsegment is left out: what it adds to symspell (4,000 bigrams) is mostly spam.
CLIP = ("wordnet(lemmas=first, share=0.18)", "wikipedia_bigrams(share=0.2)", "wikipedia_titles(share=0.12)",
        "wikipedia_words")  # fmt: skip
PACKAGES = ("wordnet(share=0.3)", "classnames(share=0.01)", "emoji(share=0.01)", "places(share=0.07)",
            "symspell(share=0.15)", "wikipedia_titles(share=0.12)", "wordfreq")  # fmt: skip


class Source(Protocol):
    """What one file of curate/queries/sources gives. See docs/commands/queries.md.

    Its options may be named `language`, `dumps` and `stop_share`: the command's own, unless the user sets them.
    """

    origin: str  # who counted what
    licence: str
    running_text: bool  # counts are of words in running text, so that their shares tell stop words
    made_by: dict[str, Any]  # versions, sizes of files: whatever else decides what is read

    @staticmethod
    def covers(language: str) -> bool: ...

    def read(self) -> Iterator[tuple[str, int]]:
        """(query, count): larger counts are taken first; what comes twice is added up."""
        ...


@dataclass(frozen=True)
class Ingredient:
    """A source, the name that the list knows it by, and its share of the places (None: of what is left)."""

    label: str
    spec: str
    share: float | None
    source: Source


def ingredients(specs: tuple[str, ...], dumps: Dumps, stop_share: float) -> list[Ingredient]:
    """The sources the user names, or those of CLIP's recipe with a dump and of the packages without.

    Raises CurateError for an unknown source, one that has not the language, and a package that is not installed.
    """
    chosen = [_split(spec) for spec in specs or default(dumps)]
    made = [_made(spec, share, dumps, stop_share) for spec, share in chosen]
    labels = [ingredient.label for ingredient in made]
    for label in labels:
        if labels.count(label) > 1:
            raise CurateError(f"two sources are called {label}; name one: {label}(as=other)")
    return made


def default(dumps: Dumps) -> tuple[str, ...]:
    """The recipe for these dumps, without the sources that do not have the language."""
    recipe: tuple[str, ...] = CLIP if dumps.wikipedia else PACKAGES
    if not dumps.pageviews:
        recipe = tuple(spec for spec in recipe if not spec.startswith("wikipedia_titles"))
    found = tuple(spec for spec in recipe if named.plugin(KIND, named.parse(spec)).covers(dumps.language))  # type: ignore[attr-defined]
    if not found:
        raise CurateError(f"no source has the language '{dumps.language}'")
    return found


def _split(text: str) -> tuple[named.Spec, float | None]:
    """A spec without its share, and the share."""
    spec = named.parse(text)
    share = dict(spec.options).get("share")
    if share is not None and not isinstance(share, int | float):
        raise CurateError(f"share={share} in '{text}' is no number; write a part of the list: share=0.2")
    return replace(spec, options=tuple(option for option in spec.options if option[0] != "share")), share


def _made(spec: named.Spec, share: float | None, dumps: Dumps, stop_share: float) -> Ingredient:
    cls = named.plugin(KIND, spec)
    given = {"language": dumps.language, "dumps": dumps, "stop_share": stop_share}
    accepted = inspect.signature(cls).parameters
    options = {name: value for name, value in given.items() if name in accepted} | dict(spec.options)
    language = options.get("language", dumps.language)
    if not cls.covers(language):  # type: ignore[attr-defined]
        raise CurateError(f"the source {spec.name} has nothing in '{language}'; leave it out, or give it a language")
    source = named.load(KIND, replace(spec, options=tuple(options.items())))
    return Ingredient(spec.slug, str(spec), share, source)
