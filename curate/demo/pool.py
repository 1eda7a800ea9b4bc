"""The staged pool: which picture stands at which URL with which text, and the dirt; one row is one <img> of a web page.

Every choice is a seeded draw for one emoji, so the same seed gives the same pool on every machine.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate.demo.emoji import LANGUAGES, Emoji
from curate.shard import uid_of

HELD_OUT = 27  # of each group
PLANTED = 60  # held-out pictures that are put into the pool
COPIES = ("same", "jpeg", "small", "crop")  # how a planted copy was changed

# share of texts by kind
KINDS = {"english": 0.66, "foreign": 0.16, "wrong": 0.09, "junk": 0.06, "empty": 0.03}
# share of rows by what is wrong with their URL
DIRT = {"dead link": 0.03, "refused": 0.01, "html page": 0.008, "truncated": 0.008, "tiny": 0.008, "moved": 0.02}
REPEATED = 0.02  # rows that come twice

ENGLISH = (
    "{name}, {group}",
    "{name}, {group}",
    "{name}, {group}",
    "a drawing of {name}, {group}",
    "{group}: {name}",
    "{name} emoji, {group}",
    "colour icon of {name}, {group}",
    "{name}",
    "a sticker of {name}",
)
FOREIGN = {
    "de": ("{name}", "ein Bild von: {name}", "Symbol für {name} zum Herunterladen"),
    "es": ("{name}", "un dibujo de {name}", "icono de {name} para descargar"),
    "fr": ("{name}", "un dessin : {name}", "icône {name} à télécharger"),
    "it": ("{name}", "un disegno di {name}", "icona {name} da scaricare"),
    "pt": ("{name}", "um desenho de {name}", "ícone de {name} para baixar"),
    "ru": ("{name}", "рисунок: {name}", "значок {name} скачать"),
    "ja": ("{name}", "{name}のイラスト", "{name}のアイコン素材"),
}
JUNK = (
    "IMG_{number}.jpg", "{code}.png", "image", "icon", "logo", "untitled image {number}", "free icon 256x256",
    "picture", "photo {number}", "click here", "advertisement", "&nbsp;", "a", "profile picture",
)  # fmt: skip

SUFFIXES = {"pastel": "webp", "jpeg": "jpg", "crop": "jpg"}  # png for every other form
COLUMNS = ("url", "text", "kind", "dirt", "form", "code", "benchmark_key")


@dataclass(frozen=True)
class Picture:
    """One image file of the staged web."""

    path: str
    code: str
    form: str  # png, pastel, jpeg, small, crop, same, tiny, truncated


@dataclass(frozen=True)
class Row:
    url: str
    text: str
    kind: str
    dirt: str
    form: str
    code: str
    benchmark_key: str = ""  # of the held-out picture that this one is a planted copy of


def held_out(emojis: Sequence[Emoji], seed: int = 0) -> list[Emoji]:
    """HELD_OUT emoji of each group, never a skin-tone variant, in the order of their codes."""
    chosen = []
    for group in sorted({emoji.group for emoji in emojis}):
        plain = [emoji for emoji in emojis if emoji.group == group and not emoji.toned]
        chosen += random.Random(f"{seed} held out {group}").sample(plain, min(HELD_OUT, len(plain) // 2))
    return sorted(chosen, key=lambda emoji: emoji.code)


def planted(benchmark: Sequence[Emoji], seed: int = 0) -> list[tuple[Emoji, str]]:
    """Held-out emoji that also stand in the pool, with the change made to each copy."""
    chosen = random.Random(f"{seed} planted").sample(list(benchmark), min(PLANTED, len(benchmark)))
    return [(emoji, COPIES[index % len(COPIES)]) for index, emoji in enumerate(chosen)]


def rows(emojis: Sequence[Emoji], benchmark: Sequence[Emoji], origin: str, seed: int = 0) -> list[Row]:
    """Every row of the pool in a shuffled order; `origin` is the web's address, as http://127.0.0.1:8642."""
    outside = {emoji.base for emoji in benchmark}
    found: list[Row] = []
    for emoji in emojis:
        if emoji.base not in outside:
            found += _rows_of(emoji, emojis, origin, random.Random(f"{seed} {emoji.code}"))
    for emoji, change in planted(benchmark, seed):
        text = f"{emoji.name}, {emoji.group}"
        url = f"{origin}/copies/{emoji.code}-{change}.{SUFFIXES.get(change, 'png')}"
        found.append(Row(url, text, "english", "", change, emoji.code, emoji.code))
    random.Random(f"{seed} order").shuffle(found)
    return found


def pictures(found: Sequence[Row], origin: str) -> list[Picture]:
    """The files that the web must hold for these rows, each once, sorted by path."""
    files = {_path(row, origin): row for row in found if row.dirt not in ("dead link", "refused", "html page")}
    bent = {"tiny", "truncated"}
    return [Picture(path, row.code, row.dirt if row.dirt in bent else row.form) for path, row in sorted(files.items())]


def table(found: Sequence[Row]) -> pa.Table:
    """What `curate harvest` is given: url and text, nothing that tells the dirt."""
    return pa.table({"url": [row.url for row in found], "text": [row.text for row in found]})


def truth(found: Sequence[Row]) -> pa.Table:
    """What was staged, by uid; the stages never see it."""
    unique = {uid_of(row.url, row.text): row for row in found}
    columns = {name: pa.array([getattr(row, name) for row in unique.values()], pa.string()) for name in COLUMNS}
    return pa.table({"uid": pa.array(list(unique), pa.string()), **columns}).sort_by("uid")


def _rows_of(emoji: Emoji, emojis: Sequence[Emoji], origin: str, rng: random.Random) -> Iterator[Row]:
    for form in _forms(emoji, rng):
        for _ in range(1 + (rng.random() < 0.5) + (rng.random() < 0.15)):
            kind = _drawn(KINDS, rng)
            dirt = _drawn({"": 1 - sum(DIRT.values()), **DIRT}, rng)
            row = Row(_url(origin, emoji, form, dirt), _text(emoji, kind, emojis, rng), kind, dirt, form, emoji.code)
            yield row
            if rng.random() < REPEATED:
                yield row


def _forms(emoji: Emoji, rng: random.Random) -> list[str]:
    """The copies of one drawing that different sites show; skin-tone variants are mostly shown once."""
    chances = {"pastel": 0.12, "jpeg": 0.05} if emoji.toned else {"pastel": 0.6, "jpeg": 0.4, "again": 0.08}
    return ["png", *(form for form, chance in chances.items() if rng.random() < chance)]


def _url(origin: str, emoji: Emoji, form: str, dirt: str) -> str:
    folder = {"": "images", "dead link": "gone", "html page": "broken", "truncated": "cut", "tiny": "tiny",
              "moved": "moved", "refused": "images"}[dirt]  # fmt: skip
    suffix = SUFFIXES.get(form, "png")
    # nothing listens on the discard port
    host = f"{origin.rsplit(':', 1)[0]}:9" if dirt == "refused" else origin
    return f"{host}/{folder}/{emoji.code}-{form}.{suffix}"


def _path(row: Row, origin: str) -> str:
    path = row.url.removeprefix(f"{origin}/")
    return path.replace("moved/", "images/", 1) if path.startswith("moved/") else path


def _text(emoji: Emoji, kind: str, emojis: Sequence[Emoji], rng: random.Random) -> str:
    if kind == "empty":
        return ""
    if kind == "junk":
        return rng.choice(JUNK).format(number=rng.randrange(1000, 9999), code=emoji.code)
    if kind == "foreign" and emoji.foreign:
        language = rng.choice([language for language in LANGUAGES if language in emoji.foreign])
        return rng.choice(FOREIGN[language]).format(name=emoji.foreign[language])
    told = emoji
    while kind == "wrong" and (told.group == emoji.group or told.toned):
        told = rng.choice(emojis)
    name = rng.choice((told.name, told.name, *told.aliases))
    return rng.choice(ENGLISH).format(name=name, group=told.group)


def _drawn(shares: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]
