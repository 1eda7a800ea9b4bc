"""The held-out benchmark in CLIP_benchmark's layout: one tar of images with class numbers and captions."""

from collections.abc import Sequence

from curate.demo.emoji import Emoji
from curate.demo.pool import Picture
from curate.demo.web import draw
from curate.files import Folder
from curate.shard import tar_bytes

TEMPLATES = ("{c}", "a drawing of {c}", "colour icon of {c}", "a sticker, {c}")


def write(folder: Folder, emojis: Sequence[Emoji]) -> None:
    """root/test/0.tar with code.png, code.cls and code.txt (one caption a line), and the lists beside it."""
    groups = sorted({emoji.group for emoji in emojis})
    files = []
    for emoji in emojis:
        files += [
            (f"{emoji.code}.png", draw(Picture("", emoji.code, "png"))),
            (f"{emoji.code}.cls", str(groups.index(emoji.group)).encode()),
            (f"{emoji.code}.txt", "\n".join(captions(emoji)).encode()),
        ]
    folder.write_bytes("test/0.tar", tar_bytes(files))
    folder.write_bytes("test/nshards.txt", b"1\n")
    folder.write_bytes("classnames.txt", ("\n".join(groups) + "\n").encode())
    folder.write_bytes("zeroshot_classification_templates.txt", ("\n".join(TEMPLATES) + "\n").encode())
    folder.write_json("about.json", {"images": len(emojis), "classes": groups})


def captions(emoji: Emoji) -> list[str]:
    """Two texts for each image: with its group and without."""
    return [f"{emoji.name}, {emoji.group}", f"a drawing of {emoji.name}"]
