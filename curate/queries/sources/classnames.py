"""The class names of benchmark sets (PyPI's clip-benchmark), by how many sets have the class."""

import ast
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from curate.errors import CurateError
from curate.queries.packages import data_file, version

# their classes are answers ("very nearby", "three", "0"), not names of things
ANSWERS = ("clevr_", "dmlab", "kitti_", "mnist", "svhn", "pcam", "diabetic_retinopathy", "fer2013")
TRANSLATED = {"ja": "jp", "ar": "ar", "zh": "cn", "it": "it"}


class Source:
    """English: the classes of every set that names things. Other languages: those of ImageNet, by translators where
    there are any, else by BabelNet (Babel-ImageNet)."""

    origin = "class names in clip-benchmark (ImageNet, Caltech-101, Flowers, Pets, Country211, VOC ...)"
    licence = "MIT"
    running_text = False

    def __init__(self, language: str = "en"):
        if not self.covers(language):
            raise CurateError(f"classnames has no names in '{language}'")
        self.language = language
        self.made_by = version("clip-benchmark")

    @staticmethod
    def covers(language: str) -> bool:
        return language == "en" or language in TRANSLATED or language.upper() in _read("babel_imagenet.json")

    def read(self) -> Iterator[tuple[str, int]]:
        """(class name, number of sets that have it)."""
        if self.language == "en":
            sets = _read("en_classnames.json")
            named = [names for name, names in sets.items() if not name.startswith(ANSWERS)]
        elif self.language in TRANSLATED:
            named = list(_read(f"{TRANSLATED[self.language]}_classnames.json").values())
        else:
            names = _read("babel_imagenet.json")[self.language.upper()][1]
            named = [names if isinstance(names, list) else ast.literal_eval(names)]
        counts = Counter(name for names in named for name in sorted(set(names)))
        yield from counts.items()


def _read(name: str) -> dict[str, Any]:
    return json.loads(data_file("clip_benchmark", f"datasets/{name}").read_text(encoding="utf-8"))
