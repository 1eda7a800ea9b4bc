"""Residual attention blocks of open_clip's transformers on packed rows: sequences of any lengths in one matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

ROWS = {"cpu": 1024, "cuda": 1 << 17}  # of activations at a time: on a CPU under 20 MB, which malloc keeps

Linear = Callable[[torch.Tensor], torch.Tensor]  # [rows, in] -> [rows, out]

# cuDNN's attention builds a plan for every new number of sequences: up to a second each (PyTorch calls others as well)
torch.backends.cuda.enable_cudnn_sdp(False)


class Block(NamedTuple):
    """A residual attention block of open_clip as functions of rows, whose weights may be live or prepared for good."""

    norms: tuple[Linear, Linear]
    qkv: tuple[Linear, Linear, Linear]  # query, key and value; query alone; key and value
    out: Linear
    mlp: Linear
    scales: tuple[Linear, Linear]
    heads: int


class Group(NamedTuple):
    """Rows of the packed matrix that attend alike: `number` sequences of `length` rows, one after the other."""

    number: int
    length: int
    ends: torch.Tensor  # int64 [number]: the row that each sequence is pooled from, counted from its first
    causal: bool


# (groups, rows, whether it is the last block) -> rows; of the last block those that the sequences are pooled from
Residual = Callable[[list[Group], torch.Tensor, bool], torch.Tensor]


def live_residual(module: Any, groups: list[Group], x: torch.Tensor, last: bool) -> torch.Tensor:
    """A residual attention block of open_clip on packed rows, by the weights that it has at this moment."""
    return residual(block_of(module, live_linear), groups, x, last)


def residual(block: Block, groups: list[Group], x: torch.Tensor, last: bool) -> torch.Tensor:
    normed = block.norms[0](x)
    if last:
        ends = _ends(groups)
        attended = _attended_at_ends(block.qkv[1](normed[ends]), block.qkv[2](normed), groups, block.heads)
        x = x[ends]
    else:
        attended = _attended(block.qkv[0](normed), groups, block.heads)
    x = x + block.scales[0](block.out(attended))
    return x + block.scales[1](block.mlp(block.norms[1](x)))


def _ends(groups: list[Group]) -> torch.Tensor:
    """The rows that the sequences are pooled from."""
    found, start = [], 0
    for group in groups:
        first = start + group.length * torch.arange(group.number, device=group.ends.device)
        found.append(first + group.ends)
        start += group.number * group.length
    return torch.cat(found)


def _attended(qkv: torch.Tensor, groups: list[Group], heads: int) -> torch.Tensor:
    """Query, key and value of all rows [rows, 3 * width] -> [rows, width]."""
    found = []
    for group, rows in zip(groups, qkv.split([group.number * group.length for group in groups]), strict=True):
        query, key, value = rows.view(group.number, group.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=group.causal)
        found.append(attended.transpose(1, 2).reshape(len(rows), -1))
    return torch.cat(found)


def _attended_at_ends(query: torch.Tensor, key_value: torch.Tensor, groups: list[Group], heads: int) -> torch.Tensor:
    """Query of the ends [sequences, width], key and value of all rows [rows, 2 * width] -> [sequences, width]."""
    queries = query.split([group.number for group in groups])
    rows = key_value.split([group.number * group.length for group in groups])
    found = []
    for group, asked, told in zip(groups, queries, rows, strict=True):
        key, value = told.view(group.number, group.length, 2, heads, -1).permute(2, 0, 3, 1, 4)
        asked = asked.view(group.number, heads, 1, -1) * key.shape[-1] ** -0.5
        # written out: torch's own attention of single queries sums in another order for every number of threads
        likeness = asked @ key.transpose(-1, -2)
        if group.causal:
            unseen = torch.arange(group.length, device=query.device) > group.ends.view(-1, 1, 1, 1)
            likeness = likeness.masked_fill(unseen, -torch.inf)
        found.append((likeness.softmax(dim=-1) @ value).reshape(group.number, -1))
    return torch.cat(found)


def block_of(block: Any, linear: Callable[..., Linear]) -> Block:
    attn, width = block.attn, block.attn.embed_dim
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    wide = linear(block.mlp.c_fc.weight, block.mlp.c_fc.bias, block.mlp.gelu)
    narrow = linear(block.mlp.c_proj.weight, block.mlp.c_proj.bias)
    return Block(
        norms=(block.ln_1, block.ln_2),
        qkv=(linear(weight, bias), linear(weight[:width], bias[:width]), linear(weight[width:], bias[width:])),
        out=linear(attn.out_proj.weight, attn.out_proj.bias),
        mlp=lambda x: narrow(wide(x)),
        scales=(block.ls_1, block.ls_2),
        heads=attn.num_heads,
    )


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def live_linear(weight: torch.Tensor, bias: torch.Tensor | None, then: Linear = same) -> Linear:
    return lambda x: then(F.linear(x, weight, bias))


def cast(dtype: torch.dtype, weight: torch.Tensor, bias: torch.Tensor | None, then: Linear = same) -> Linear:
    weight, bias = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
    return lambda x: then(F.linear(x.to(dtype), weight, bias))


def onednn(dtype: torch.dtype, weight: torch.Tensor, bias: torch.Tensor | None, then: Linear = same) -> Linear:
    weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), ROWS["cpu"])
    bias = None if bias is None else bias.detach().to(dtype).contiguous()
    if isinstance(then, torch.nn.GELU) and then.approximate == "none":  # in the product's own loop
        return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "gelu", [], "none")
    return lambda x: then(torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], ""))


def rounded(dtype: torch.dtype, weight: torch.Tensor, bias: torch.Tensor | None, then: Linear = same) -> Linear:
    """bf16 for processors without it: values rounded to bf16 are multiplied in fp32, which on AVX2 takes a seventh of
    the time of torch's own bf16 products."""
    linear = onednn(torch.float32, weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype), then)
    return lambda x: linear(x.to(dtype))
