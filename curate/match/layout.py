"""What the compiled loops and those who call them agree on; numba is not needed to know it."""

from curate.compiled.loops import Loops

UNICODE, INSIDE, LEFT = 64, 65, 66  # further classes: not ASCII; a character's other bytes; for the numpy path
TOGETHER = 1 << 12  # bytes of text at a time: their tokens stay in the core's own cache
RECENT = 1 << 11  # words whose nodes are remembered in a block
SPARE = 16  # places behind the last query found: eight are read at a time
ARRAYS = {"data": "uint8", "offsets": "int64", "text": "uint8", "kinds": "uint8", "hashes": "uint64", "before": "int64",
          "values": "uint64", "nexts": "uint64", "some": "int64", "paths": "uint64", "bounds": "int64", "few": "int32",
          "recent": "uint64", "known": "uint64", "classes": "uint8", "pages": "uint16", "page_classes": "uint8",
          "page_steps": "int32", "words": "uint64", "windows": "uint8", "twins": "int32", "found": "int32",
          "counts": "int64", "left": "uint8", "progress": "int64"}  # fmt: skip
NUMBERS = ("rows", "room", "bits", "plain", "twinned", "spaced", "lower", "longest")
SOURCES = tuple(f"curate.match.{name}" for name in ("layout", "hashing", "characters"))
LOOPS = Loops("curate.match.kernel", "matched", ARRAYS, NUMBERS, SOURCES)
