"""Length of the caption as CLIP reads it: byte-pair tokens without the start and end marks (CLIP sees the first 75)."""

import pyarrow as pa

from curate.clip.tokenizer import Tokenizer


class Signal:
    reads = ("caption",)

    def __init__(self):
        self._tokenizer = None

    def measure(self, rows) -> dict[str, pa.Array]:
        self._tokenizer = self._tokenizer or Tokenizer(context_length=77)
        captions = rows["caption"].to_pylist()
        return {"tokens": pa.array([len(self._tokenizer.encode(caption)) for caption in captions], pa.int32())}
