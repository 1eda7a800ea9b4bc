"""One step of training: features, loss, gradients, AdamW, and the temperature kept in its bounds."""

import math
from typing import Any

import open_clip
import torch
import torch.nn.functional as F

from curate.encoders import autocast, encode_text, normalised
from curate.train.loader import Batch

MAX_LOGIT_SCALE = math.log(100)  # the paper's clip: logits are never scaled by more than 100


class BadLoss(ValueError):
    """The loss of a batch or its gradient is not finite."""


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up from peak / warmup to `peak`, then half a cosine down to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def adamw(model: Any, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with the paper's betas and epsilon for ViT or ResNet; gains, biases and the temperature do not decay."""
    resnet = isinstance(model.visual, open_clip.modified_resnet.ModifiedResNet)
    betas, epsilon = ((0.9, 0.999), 1e-8) if resnet else ((0.9, 0.98), 1e-6)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=epsilon)


def train_step(model: Any, objective: Any, optimizer: torch.optim.AdamW, batch: Batch, lr: float,
               precision: str) -> float:  # fmt: skip
    """One step on `batch`; its loss. Raises BadLoss, and changes nothing, where loss or gradient is not finite."""
    device = model.logit_scale.device
    pixels = batch.pixels.pin_memory() if device.type == "cuda" else batch.pixels
    with autocast(device, precision):
        image = model.encode_image(normalised(pixels.to(device, non_blocking=True), model))
        text = encode_text(model, batch.tokens)
    # the loss in fp32: at scale 100 bf16 logits are wrong by a percent
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    loss = objective(image, text, model.logit_scale.exp(), model.logit_bias)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    value, norm = torch.stack([loss.detach(), torch.nn.utils.get_total_norm(gradients)]).tolist()
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise BadLoss(f"the loss is {value}, the norm of its gradient {norm}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
    return value
