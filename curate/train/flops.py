"""How much arithmetic a pair costs, counted once on a model without memory, and how much a device can do at best."""

import copy
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from curate.clip import models
from curate.clip.encoders import image_size

BACKWARD = 2  # times the forward pass
# dense FLOP/s of NVIDIA's data sheets: (part of the name, bf16 tensor cores, fp32 without them); the first that fits
PEAKS = (
    ("H100 PCIe", 756e12, 51e12),
    ("H100 NVL", 835e12, 60e12),
    ("H100", 989e12, 67e12),
    ("H200 NVL", 835e12, 60e12),
    ("H200", 989e12, 67e12),  # GH200 as well
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L40", 181e12, 90.5e12),
    ("L4", 121e12, 30.3e12),
    ("A10G", 70e12, 31.5e12),
    ("V100", 125e12, 15.7e12),
)


def of_pair(config: dict[str, Any]) -> tuple[float, float]:
    """(FLOPs of an image, FLOPs of a text token) of one forward pass; zeros for a model that cannot be counted.

    A text tower is counted at its full length and divided by it: real tokens count, padding does not.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                model = models.build(copy.deepcopy(config)).eval()
                side, length = image_size(model), model.context_length
                image = _counted(lambda: model.encode_image(torch.empty(1, 3, side, side)))
                text = _counted(lambda: model.encode_text(torch.zeros(1, length, dtype=torch.long)))
        except (NotImplementedError, RuntimeError, AttributeError):  # a tower that has no form without memory
            return 0.0, 0.0
    return image, text / length


def per_sample(of_image: float, of_token: float, tokens: float) -> float:
    """FLOPs of training on one pair with so many text tokens: forward and backward of both towers.

    What is computed twice to save memory does not count, nor does the loss (0.3 % at a batch of 32,768).
    """
    return (1 + BACKWARD) * (of_image + of_token * tokens)


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s that the device can do at best in a precision; None where the data sheet is not known here."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision)


def peak_of(name: str, precision: str) -> float | None:
    """The same, by the name that the driver gives a GPU."""
    for part, bf16, fp32 in PEAKS:
        if part in name:
            return bf16 if precision == "bf16" else fp32
    return None


def _counted(forward: Any) -> float:
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        forward()
    return float(counted.get_total_flops())
