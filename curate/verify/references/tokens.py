"""tokens by open_clip's own tokenizer."""

from curate.clip.lean import open_clip


class Reference:
    tolerance = 0.0

    def measure(self, images, captions) -> dict[str, list]:
        encode = open_clip.SimpleTokenizer().encode
        return {"tokens": [len(encode(caption)) for caption in captions]}
