"""open_clip without what most of its models never use: half the CPU that a process pays before it encodes anything.

It would import timm, for which a fifth of its configs ask, and through torchvision's detection ops torch.compile's
compiler: 3.4 of 7 CPU seconds. Both come when they are asked for.
"""

import functools
import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["TF", "ModifiedResNet", "MultimodalTransformer", "ResidualAttentionBlock", "VisionTransformer", "open_clip"]

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class _Later(types.ModuleType):
    """A module whose functions import the real one when they are called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "disable":
            return _disable
        return functools.partial(_called, self.__name__, name)


def _called(module: str, function: str, *arguments: Any, **options: Any) -> Any:
    _uncover()
    return getattr(importlib.import_module(module), function)(*arguments, **options)


def _disable(function: Any = None, recursive: bool = True, **_: Any) -> Any:
    """torch's own decorator of the same meaning that asks for the compiler at the first call."""
    return torch._disable_dynamo(function, recursive)


def _uncover() -> None:
    for name in COMPILER:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


@contextmanager
def _put_off() -> Iterator[None]:
    """Inside the block timm is not found, and the compiler is not imported."""
    hides = "timm" not in sys.modules
    if hides:
        sys.modules["timm"] = None  # type: ignore[assignment]
    if COMPILER[0] not in sys.modules:
        sys.modules.update({name: _Later(name) for name in COMPILER})
    try:
        yield
    finally:
        _uncover()
        if hides:
            del sys.modules["timm"]


with _put_off():
    import open_clip
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import MultimodalTransformer, ResidualAttentionBlock, VisionTransformer
    from torchvision.transforms.v2 import functional as TF


def with_timm() -> None:
    """Let open_clip build towers of timm's."""
    adapter: Any = open_clip.timm_model
    if adapter.timm is None:
        known = adapter.TimmModel  # the class that open_clip.model knows: its methods see the module as it is reloaded
        importlib.reload(adapter)
        adapter.TimmModel = known
