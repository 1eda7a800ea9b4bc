"""What CLIP models compute: pixels and tokens in, features out, without the work that cannot change them."""

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from curate.clip.attention import (
    ROWS,
    Group,
    Linear,
    Residual,
    block_of,
    cast,
    live_linear,
    live_residual,
    onednn,
    residual,
    rounded,
    same,
)
from curate.clip.lean import TF, ResidualAttentionBlock, VisionTransformer, open_clip

ELONGATED = 8  # images longer than this many times their width are cut to this before they are resized
LENGTH_STEP = {"cpu": 1, "cuda": 8}  # texts attend together whose lengths round up to the same multiple of this

GATHERED = "with_weights_gathered"  # the method of blocks with shared-out weights: live_residual, weights being there


class Tower(NamedTuple):
    """A transformer as functions of rows, at most `portion` of them at a time. `patches` maps the pixels of an image's
    patches to the width of the blocks, `project` what is pooled to the features."""

    patches: Linear
    blocks: Sequence[Residual]
    project: Linear
    portion: int


def encode_text(model: Any, tokens: torch.Tensor, ready: Tower | None = None) -> torch.Tensor:
    """Features [n, d] of int64 tokens [n, context] (on the CPU), as model.encode_text gives them, without the padding.

    A causal tower never looks past the end token that it is pooled from. So the tokens up to it stand packed in one
    matrix, attention alone works text by text (those of one length together), and of the last block only the end tokens
    are computed: exact, differentiable, an eighth of the work on web captions (mean 13 of 77 tokens). Other towers go
    through model.encode_text. `ready`: the tower from `prepared`; its live weights by default.
    """
    device = next(model.parameters()).device
    tower = text_tower(model)
    if tower is None:
        return model.encode_text(tokens.to(device))
    ready = ready or live(tower)
    lengths = tokens.argmax(dim=-1) + 1  # the end token has the largest id; padding (0) is also the id of "!"
    order = torch.argsort(lengths, stable=True)
    portions = _portions(order, lengths, ready.portion)
    parts = [_packed(tower, ready, tokens[rows], lengths[rows], device) for rows in portions]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return torch.cat(parts)[moved(back, device)]


def encode_image(model: Any, pixels: torch.Tensor, ready: Tower | None = None) -> torch.Tensor:
    """Features [n, d] of `normalised` pixels [n, 3, s, s], as model.encode_image gives them. Where a vision transformer
    is pooled from its class token, only that is computed in the last block: exact and differentiable. Other towers go
    through model.encode_image. `ready`: the tower from `prepared`; its live weights by default."""
    tower = image_tower(model)
    if tower is None:
        return model.encode_image(pixels)
    ready = ready or live(tower)
    portion = max(1, ready.portion // len(tower.positional_embedding))
    return torch.cat([_class_token(tower, ready, some) for some in pixels.split(portion)])


def text_tower(model: Any) -> Any | None:
    """The module with the text weights, where a text may be cut after its end token without changing its features."""
    tower = model if hasattr(model, "token_embedding") else model.text
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    plain = getattr(tower, "cls_emb", None) is None and not getattr(tower, "use_pad_mask", False)
    causal = getattr(tower, "attn_mask", None) is not None
    return tower if plain and causal and pool == "argmax" and _standard(tower.transformer) else None


def image_tower(model: Any) -> Any | None:
    """The vision transformer, where its features are those of its class token."""
    tower = model.visual
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None or tower.output_tokens:
        return None
    plain = tower.pool_type == "tok" and isinstance(tower.patch_dropout, torch.nn.Identity)
    return tower if plain and _standard(tower.transformer) else None


def live(tower: Any) -> Tower:
    """A tower that follows its weights and gives them gradients."""
    blocks = tower.transformer.resblocks
    rows = ROWS[_kind(blocks[0].attn.in_proj_weight.device)]
    if hasattr(blocks[0], GATHERED):  # all processes enter a block equally often, however long their texts are
        return _tower(tower, [getattr(block, GATHERED) for block in blocks], live_linear, live_linear, sys.maxsize)
    return _tower(tower, [functools.partial(live_residual, block) for block in blocks], live_linear, live_linear, rows)


def prepared(tower: Any, precision: str) -> Tower:
    """A tower in evaluation with its matrices in the order and precision that the processor multiplies fastest: fp32,
    or bf16 with everything between the products of the blocks (sums, norms, attended rows) in fp32.

    On CPUs oneDNN multiplies: in true fp32 whatever is allowed elsewhere, with the same bits for any number of threads.
    """
    blocks = tower.transformer.resblocks
    kind = _kind(blocks[0].attn.in_proj_weight.device)
    on_cpu = kind == "cpu"
    linear = onednn if on_cpu and torch.backends.mkldnn.is_available() else cast
    if precision == "bf16" and on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        linear = rounded if linear is onednn else cast
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    inner, last = functools.partial(linear, dtype), functools.partial(linear, torch.float32)
    ready = [functools.partial(residual, block_of(block, inner)) for block in blocks]
    return _tower(tower, ready, inner, last, ROWS[kind])


def resized(image: np.ndarray, size: int, squash: bool = False) -> torch.Tensor:
    """RGB uint8 [h, w, 3] -> uint8 [3, size, size]: bicubic, antialiased; the short side resized and the centre
    kept, or, for models trained so, both sides squashed."""
    height, width = image.shape[:2]
    if max(height, width) > ELONGATED * min(height, width):  # a 1 x 10,000 image would become 224 x 2,240,000
        side = ELONGATED * min(height, width)
        top, left = max(0, height - side) // 2, max(0, width - side) // 2
        image = image[top : top + side, left : left + side]
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    shape = [size, size] if squash else [size]
    pixels = TF.resize(pixels, shape, TF.InterpolationMode.BICUBIC, antialias=True)
    return TF.center_crop(pixels, [size, size])


def normalised(pixels: torch.Tensor, model: Any) -> torch.Tensor:
    """uint8 [n, 3, s, s] on the model's device -> float32, by the mean and standard deviation of the model."""
    options = preprocessing(model)
    both = torch.tensor([options["mean"], options["std"]]) * 255
    mean, spread = moved(both, pixels.device).view(2, 1, 3, 1, 1)
    return (pixels.float() - mean) / spread


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on the device. A GPU copies it from pinned memory, when its turn comes: nobody waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def preprocessing(model: Any) -> dict[str, Any]:
    """mean, std and resize_mode of a model; OpenAI's where it says nothing."""
    standard = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD, "resize_mode": "shortest"}
    return {**standard, **(getattr(model.visual, "preprocess_cfg", None) or {})}


def image_size(model: Any) -> int:
    size = model.visual.image_size
    return int(size if isinstance(size, int) else size[0])


def embed_dim(model: Any) -> int:
    """Length of a feature."""
    return int(encode_text(model, torch.ones(1, model.context_length, dtype=torch.long)).shape[-1])


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 arithmetic inside the block, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _standard(transformer: Any) -> bool:
    """Whether a transformer is made of the blocks that `Block` computes."""
    blocks = getattr(transformer, "resblocks", ())
    return bool(blocks) and all(
        (type(block) is ResidualAttentionBlock or hasattr(block, GATHERED))
        and block.attn.in_proj_bias is not None
        and not hasattr(block, "ln_1_kv")
        for block in blocks
    )


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "cuda"


def _tower(tower: Any, blocks: Sequence[Residual], linear: Callable[..., Linear], last: Callable[..., Linear],
           portion: int) -> Tower:  # fmt: skip
    projection = tower.proj if hasattr(tower, "proj") else tower.text_projection
    if isinstance(projection, torch.nn.Linear):
        project = last(projection.weight, projection.bias)
    else:
        project = same if projection is None else last(projection.T, None)
    patches = linear(tower.conv1.weight.flatten(1), None) if hasattr(tower, "conv1") else same
    return Tower(patches, blocks, project, portion)


def _portions(order: torch.Tensor, lengths: torch.Tensor, tokens: int) -> list[torch.Tensor]:
    """`order` cut into runs of texts with at most so many tokens."""
    portion = (lengths[order].cumsum(0) - 1) // tokens
    return list(order.split(torch.unique_consecutive(portion, return_counts=True)[1].tolist()))


def _packed(tower: Any, ready: Tower, tokens: torch.Tensor, lengths: torch.Tensor,
            device: torch.device) -> torch.Tensor:  # fmt: skip
    """Features [n, d] of texts in the order of their lengths."""
    step = LENGTH_STEP[_kind(device)]
    counts = torch.unique_consecutive((lengths + step - 1) // step, return_counts=True)[1].tolist()
    sizes = [(len(some), int(some[-1])) for some in lengths.split(counts)]
    packed = [texts[:, :length].reshape(-1) for texts, (_, length) in zip(tokens.split(counts), sizes, strict=True)]
    places = [torch.arange(length).repeat(number) for number, length in sizes]
    rows = sum(map(len, packed))
    numbers = moved(torch.cat([*packed, *places, lengths - 1]), device)  # one copy
    words, at, ends = numbers.split([rows, rows, len(lengths)])
    groups = [Group(*size, own, causal=True) for size, own in zip(sizes, ends.split(counts), strict=True)]
    x = tower.token_embedding(words) + tower.positional_embedding[at]
    return ready.project(tower.ln_final(_transformed(tower.transformer, ready.blocks, x, groups)))


def _class_token(tower: Any, ready: Tower, pixels: torch.Tensor) -> torch.Tensor:
    (high, wide), (rows, columns) = tower.patch_size, tower.grid_size
    whole = pixels[:, :, : rows * high, : columns * wide]  # what no patch covers is left out, as a convolution does
    cut = whole.reshape(len(pixels), 3, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
    patches = ready.patches(cut.reshape(-1, 3 * high * wide)).view(len(pixels), rows * columns, -1)
    first = tower.class_embedding.expand(len(pixels), 1, -1)
    x = tower.ln_pre(torch.cat([first, patches.to(first.dtype)], dim=1) + tower.positional_embedding)
    group = Group(len(x), x.shape[1], torch.zeros(len(x), dtype=torch.long, device=x.device), causal=False)
    return ready.project(tower.ln_post(_transformed(tower.transformer, ready.blocks, x.flatten(0, 1), [group])))


def _transformed(transformer: Any, blocks: Sequence[Residual], x: torch.Tensor, groups: list[Group]) -> torch.Tensor:
    """Rows [rows, width] through the blocks -> [sequences, width]: of each sequence the row that it is pooled from."""
    again = transformer.grad_checkpointing and torch.is_grad_enabled()
    for index, block in enumerate(blocks):
        last = index == len(blocks) - 1
        x = checkpoint(block, groups, x, last, use_reentrant=False) if again else block(groups, x, last)
    return x
