"""A device that no machine lacks: tensors whose numbers lie on the CPU, but which no operation takes together with
those of the CPU, as it is with a GPU. What lies there says that it is on "meta"; `copies` counts what was moved."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

THERE = torch.device("meta")
COPY, COPY_INTO = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default


class Elsewhere(torch.Tensor):
    """What lies on the device."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        found = torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype,
                                                    storage_offset=inner.storage_offset(), device=THERE)  # fmt: skip
        found.inner = inner
        return found

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()


class Operations(TorchDispatchMode):
    """Inside the block tensors can be made on the device, and moved to it."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.made = _Made()

    def __enter__(self) -> "Operations":
        self.made.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.made.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.copies += func is COPY and isinstance(args[0], Elsewhere) != _goes_there(args, kwargs or {})
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """torch.tensor(..., device) asks no operation that could be seen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.tensor and _is_there(options.get("device")):
            return Elsewhere(func(*args, **{**options, "device": "cpu"}))
        return func(*args, **options)


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module on the device, in place."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                there = torch.nn.Parameter(Elsewhere(weight.detach()), weight.requires_grad)
                part._parameters[name] = there
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else Elsewhere(buffer)
    return module


def here(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.inner if isinstance(tensor, Elsewhere) else tensor


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == THERE.type


def _goes_there(args: Any, kwargs: Any) -> bool:
    """Where the result of an operation lies."""
    if kwargs.get("device") is not None:
        return _is_there(kwargs["device"])
    return any(isinstance(each, Elsewhere) for each in tree_flatten((args, kwargs))[0])


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, Elsewhere)]
    strangers = [tuple(each.shape) for each in tensors if not isinstance(each, Elsewhere) and each.ndim]
    if there and strangers and func not in (COPY, COPY_INTO):
        raise RuntimeError(f"{func}: {strangers} on the CPU, {[tuple(each.shape) for each in there]} on the device")
    result_there = _goes_there(args, kwargs)
    plain, options = tree_map(here, (args, kwargs)) if tensors else (args, kwargs)
    if _is_there(options.get("device")):
        options = {**options, "device": "cpu"}
    found = func(*plain, **options)
    if func is COPY_INTO:
        return args[0]
    same = {id(each.inner): each for each in there}  # what was changed in place

    def put(each: Any) -> Any:
        return same.get(id(each)) or Elsewhere(each) if isinstance(each, torch.Tensor) and result_there else each

    return tree_map(lambda each: same[id(each)] if id(each) in same else put(each), found)
