"""Length of the caption: characters (Unicode code points) and words (whitespace-separated), as DataComp counts them."""

import pyarrow as pa


class Signal:
    reads = ("caption",)

    def measure(self, rows) -> dict[str, pa.Array]:
        captions = rows["caption"].to_pylist()
        return {
            "caption_characters": pa.array([len(caption) for caption in captions], pa.int32()),
            "caption_words": pa.array([len(caption.split()) for caption in captions], pa.int32()),
        }
