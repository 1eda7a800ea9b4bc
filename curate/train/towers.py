"""The two towers of a model as training needs them: which parameters are whose, locked ones, patches left out."""

from collections.abc import Iterator
from typing import Any

import torch

from curate.clip.lean import ModifiedResNet, VisionTransformer
from curate.errors import CurateError

SIDES = ("image", "text")
TEXT_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


def parts(model: Any, side: str) -> list[Any]:
    """The modules and parameters of one tower; the temperature belongs to neither."""
    if side == "image":
        return [model.visual]
    if hasattr(model, "text"):
        return [model.text]
    return [part for name in TEXT_PARTS if (part := getattr(model, name, None)) is not None]


def parameters(model: Any, side: str) -> Iterator[torch.nn.Parameter]:
    for part in parts(model, side):
        yield from part.parameters() if isinstance(part, torch.nn.Module) else [part]


def lock(model: Any, side: str) -> None:
    """No gradient for a tower, hence no state of the optimizer either (LiT: Zhai et al. 2022)."""
    for parameter in parameters(model, side):
        parameter.requires_grad_(False)


def locked(model: Any, side: str) -> bool:
    return not next(parameters(model, side)).requires_grad


def set_training(model: Any) -> None:
    """Training mode, but for locked towers: their batch norms keep the statistics they came with."""
    model.train()
    for side in SIDES:
        for part in parts(model, side) if locked(model, side) else ():
            if isinstance(part, torch.nn.Module):
                part.eval()


class PatchDropout(torch.nn.Module):
    """Leaves out a share of the patches of each image in training (FLIP: Li et al. 2023).

    Those with the largest numbers of `chance` [n, patches] stay. The step draws it for the whole batch, so the same
    patches stay whatever the chunks and processes, and when a chunk is encoded a second time.
    """

    def __init__(self, share: float, patches: int):
        super().__init__()
        self.patches, self.kept = patches, max(1, int(patches * (1 - share)))
        self.chance: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 1 + patches, width] with the class token first -> [n, 1 + kept, width]."""
        if not self.training or self.chance is None:
            return x
        places = 1 + self.chance.to(x.device).topk(self.kept, dim=1).indices
        places = torch.cat([places.new_zeros(len(x), 1), places], dim=1)
        return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


def drop_patches(model: Any, share: float) -> None:
    """Put PatchDropout in the image tower. Raises CurateError where that is no vision transformer of open_clip's."""
    if not 0 <= share < 1:
        raise CurateError(f"--patch-dropout {share} is no share of the patches; 0.5 leaves half of them out")
    if not isinstance(model.visual, VisionTransformer):
        raise CurateError("--patch-dropout needs a vision transformer; this model's image tower has no patches")
    rows, columns = model.visual.grid_size
    model.visual.patch_dropout = PatchDropout(share, rows * columns) if share else torch.nn.Identity()


def lay_channels_last(model: Any) -> None:
    """Weights of a ResNet in the order in which convolutions are fastest; the values are the same."""
    if isinstance(model.visual, ModifiedResNet):
        model.visual.to(memory_format=torch.channels_last)


def compile_image_tower(model: Any) -> None:
    """torch.compile for the image tower, in place: its weights keep their names. The text tower stays as it is: packed
    texts have other shapes in every batch."""
    model.visual.compile(dynamic=False)


def compiled(model: Any) -> bool:
    return model.visual._compiled_call_impl is not None


def checkpoint_activations(model: Any) -> None:
    """Keep the input of each block alone and compute the block a second time for its gradient."""
    model.set_grad_checkpointing(True)
