"""CLIP models: open_clip's, by name and pretrained tag, from a checkpoint file or from a run of `curate train-clip`."""

import copy
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from curate.clip import encoders
from curate.clip.encoders import embed_dim, encode_image, encode_text, image_size, normalised, preprocessing, resized
from curate.clip.lean import open_clip, with_timm
from curate.clip.model_config import PRECISIONS, config_of, made_by, weights_file
from curate.clip.tokenizer import Tokenizer
from curate.errors import NO_WEIGHTS, CurateError

TEXT_BATCH = 1024  # texts encoded at a time
IMAGES_CPU, IMAGES_GPU = 16, 64  # images encoded at a time; many on a CPU would not stay in its cache
RESIZED = 4  # images that a thread resizes at a time


class ClipModel:
    """A model that turns images and texts into comparable unit vectors.

    name: the architecture. made_by: {"model": ..., "weights": sha256 of the file, or the tag}. model: the open_clip
    module, in evaluation mode, on `device`. tokenizer: texts -> int64 [n, context_length]. precision: fp32, or bf16 for
    the large products (sums, norms and features stay fp32; towers other than open_clip's own are bf16 throughout).
    """

    def __init__(self, name: str, model: Any, tokenizer: Callable[..., torch.Tensor],
                 made_by: dict[str, Any], device: torch.device, precision: str = "fp32"):  # fmt: skip
        self.name, self.tokenizer, self.made_by, self.device, self.precision = (
            name, tokenizer, made_by, device, precision)  # fmt: skip
        self.model = model.to(device).eval()
        self.image_size = image_size(model)
        towers = {"image": encoders.image_tower(model), "text": encoders.text_tower(model)}
        self.ready = {side: encoders.prepared(tower, precision) if tower else None for side, tower in towers.items()}
        others = {"image": model.visual, "text": getattr(model, "text", None)}
        for side, tower in others.items():
            if tower is not None and not self.ready[side] and precision == "bf16":
                tower.to(torch.bfloat16)  # autocast would cast the weights anew for every batch
        self._image_dtype = torch.bfloat16 if not self.ready["image"] and precision == "bf16" else torch.float32

    @torch.inference_mode()
    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """RGB uint8 [h, w, 3] arrays of any sizes -> float32 [n, d], L2-normalised.

        A GPU gets uint8 from pinned memory and works on one part while threads resize the next.
        """
        if not images:
            return np.zeros((0, embed_dim(self.model)), np.float32)
        on_gpu = self.device.type == "cuda"
        parts = []
        with ThreadPoolExecutor(os.cpu_count()) if on_gpu else nullcontext() as pool:
            for start in range(0, len(images), IMAGES_GPU if on_gpu else IMAGES_CPU):
                some = images[start : start + (IMAGES_GPU if on_gpu else IMAGES_CPU)]
                small = self._resized(some, pool).to(self.device, non_blocking=True)
                pixels = normalised(small, self.model).to(self._image_dtype)
                features = encode_image(self.model, pixels, self.ready["image"])
                parts.append(F.normalize(features.float(), dim=-1))
        return torch.cat(parts).cpu().numpy()

    def _resized(self, images: Sequence[np.ndarray], pool: ThreadPoolExecutor | None) -> torch.Tensor:
        """uint8 [n, 3, s, s]; by threads, which write into pinned memory."""
        squash = preprocessing(self.model)["resize_mode"] == "squash"
        size = self.image_size
        batch = torch.empty(len(images), 3, size, size, dtype=torch.uint8, pin_memory=pool is not None)
        rows = batch.numpy()  # threads may not write into a tensor of inference

        def fill(start: int) -> None:
            for at in range(start, min(start + RESIZED, len(images))):
                rows[at] = resized(images[at], size, squash).numpy()

        list((pool.map if pool else map)(fill, range(0, len(images), RESIZED)))
        return batch

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> float32 [n, d], L2-normalised."""
        parts = [np.zeros((0, embed_dim(self.model)), np.float32)]
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self.tokenizer(list(texts[start : start + TEXT_BATCH]))
            features = encode_text(self.model, tokens, self.ready["text"])
            parts.append(F.normalize(features.float(), dim=-1).cpu().numpy())
        return np.concatenate(parts)


def load(model: str | None, pretrained: str | None, device: str = "auto", precision: str = "fp32") -> ClipModel:
    """A trained model that encodes in `precision` (auto, fp32 or bf16). `pretrained` is an open_clip tag, a checkpoint
    file (open_clip's or open_clip_train's) or the folder of a curate run; `model` is an open_clip name, one of ours or
    a JSON file, and may be None for a run.

    Raises CurateError for an unknown name, a tag that cannot be downloaded, or weights that do not fit.
    """
    if not pretrained:
        raise CurateError(f"{model} needs weights: pretrained=TAG, a checkpoint file or the folder of a run")
    where = torch_device(device)
    name, config = config_of(model, pretrained)
    network = build(config)
    load_weights(network, name, pretrained)
    if weights_file(pretrained) is None:
        tag = open_clip.get_pretrained_cfg(name, pretrained)
        network.visual.preprocess_cfg = {key: tag[key] for key in ("mean", "std", "resize_mode") if key in tag}
    return ClipModel(
        name, network, tokenizer_of(config), made_by(model, pretrained), where, scoring_precision(precision, where)
    )


def build(config: dict[str, Any]) -> Any:
    """A model with fresh weights, drawn from torch's random state, that open_clip would build of this config; its
    "preprocess_cfg", where it has one, says how images are prepared."""
    config = copy.deepcopy(config)
    preprocess = config.pop("preprocess_cfg", None)
    custom = config.pop("custom_text", False) or bool(config["text_cfg"].get("hf_model_name"))
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
        with_timm()
    if config["text_cfg"].get("hf_model_name"):
        config["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        model = kind(**config)
        if isinstance(model, open_clip.CoCa):  # open_clip leaves the last matrix of the decoder as the memory was
            decoder = model.text_decoder
            torch.nn.init.normal_(decoder.text_projection, std=decoder.text_projection.shape[0] ** -0.5)
        if preprocess:
            model.visual.preprocess_cfg = preprocess
        return model
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise CurateError(f"open_clip cannot build this model config: {_one_line(error)}") from error


def load_weights(network: Any, name: str, pretrained: str) -> None:
    """Load a tag, checkpoint file or run into a network. Raises CurateError where the weights are not there, are no
    checkpoint, or are another model's."""
    weights = weights_file(pretrained)
    if weights is None:
        _load_file(network, name, _downloaded(name, pretrained), pretrained)
        return
    with weights[0].local(weights[1]) as path:
        _load_file(network, name, path, pretrained)


def tokenizer_of(config: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """The tokenizer that a model config asks for."""
    text = config["text_cfg"]
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    options = text.get("tokenizer_kwargs") or {}
    if name := text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        try:
            return open_clip.HFTokenizer(
                name, context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options
            )
        except OSError as error:
            raise CurateError(f"the tokenizer {name} cannot be downloaded: {_one_line(error)}") from error
    if options:
        return open_clip.SimpleTokenizer(context_length=length, **options)
    return Tokenizer(length)


def torch_device(device: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU where there is none. A GPU becomes the current one, and fp32 is fp32 there.
    Raises CurateError for a device that is not there."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions would round to 10 bits; products of matrices do not
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        if where.type == "cuda" and where.index is not None:
            torch.cuda.set_device(where)
        torch.zeros(1, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = "" if str(error).startswith("Expected one of") else f" ({_one_line(error)})"
        raise CurateError(f"no device '{device}' here{reason}; use --device auto, cpu or cuda") from error
    return where


def precision_on(precision: str, device: torch.device) -> str:
    """fp32 or bf16; "auto" is bf16 on a GPU that has it."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def scoring_precision(precision: str, device: torch.device) -> str:
    """fp32 or bf16 for a model that only encodes; "auto" is bf16 where the processor multiplies it natively: GPUs that
    have it, x86 CPUs with AMX or AVX512-BF16. Raises CurateError for any other word."""
    if precision not in PRECISIONS:
        raise CurateError(f"no precision '{precision}'; choose from: {', '.join(PRECISIONS)}")
    if precision == "auto" and device.type == "cpu":
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return "bf16" if native else "fp32"
    return precision_on(precision, device)


def _load_file(network: Any, name: str, path: str, shown: str) -> None:
    try:
        open_clip.load_checkpoint(network, path, strict=True, weights_only=True)
    except pickle.UnpicklingError as error:  # torch tells how to load it without protection: nobody should
        raise CurateError(f"{shown} is not an open_clip checkpoint: it is no file of weights alone") from error
    except (RuntimeError, AssertionError) as error:  # open_clip asserts that positions have the width of the model
        reason = next((line.strip() for line in str(error).split("\n")[1:] if line.strip()), _one_line(error))
        raise CurateError(f"the weights of {shown} do not fit {name}: {reason[:160]}") from error
    except NO_WEIGHTS as error:
        raise CurateError(f"{shown} is not an open_clip checkpoint: {_one_line(error)}") from error


def _downloaded(name: str, tag: str) -> str:
    logging.disable(logging.CRITICAL)  # the hub logs every retry; its last word is in our one line
    try:
        return open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
    except (RuntimeError, OSError) as error:
        raise CurateError(
            f"{name} {tag} cannot be downloaded ({_one_line(error)[:120]}); "
            f"give a checkpoint file of your own: pretrained=PATH"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
