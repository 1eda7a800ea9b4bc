"""clip as open_clip's README computes it: its own transform on Pillow images, model.encode_image and model.encode_text
on padded tokens, in fp32, one pair at a time."""

import functools

import torch
from PIL import Image

from curate.clip import encoders, models
from curate.clip.lean import open_clip
from curate.clip.model_config import config_of, weights_file
from curate.clip.tokenizer import Tokenizer
from curate.verify.references import picture

TOLERANCE = {"fp32": 1e-3, "bf16": 1e-2, "auto": 1e-2}


class Reference:
    """The cosine; an image longer than 8 times its width is cut to that, as the signal does."""

    def __init__(self, pretrained: str, model: str | None = None, device: str = "auto", precision: str = "fp32"):
        self._options = (model, pretrained, device)
        self.tolerance = TOLERANCE[precision]

    def measure(self, images, captions) -> dict[str, list]:
        return {"clip": [self._cosine(encoded, caption) for encoded, caption in zip(images, captions, strict=True)]}

    def _cosine(self, encoded: bytes, caption: str) -> float | None:
        network, transform, tokenizer, device = _load(*self._options)
        image = picture(encoded)
        if image is None:
            return None
        with torch.inference_mode():
            pixels = transform(_cut(image)).unsqueeze(0).to(device)
            left = network.encode_image(pixels, normalize=True)
            right = network.encode_text(tokenizer([caption]).to(device), normalize=True)
        return float((left @ right.T).item())


@functools.lru_cache(maxsize=1)
def _load(model: str | None, pretrained: str, device: str):
    """(open_clip's module, transform and tokenizer, the device). Raises CurateError."""
    where = models.torch_device(device)
    name, config = config_of(model, pretrained)
    network = models.build(config)
    models.load_weights(network, name, pretrained)
    told = {} if weights_file(pretrained) else open_clip.get_pretrained_cfg(name, pretrained)
    wanted = {key: told[key] for key in ("mean", "std", "resize_mode", "interpolation") if key in told}
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=encoders.image_size(network), **wanted), is_train=False
    )
    tokenizer = models.tokenizer_of(config)
    plain = tokenizer.inner if isinstance(tokenizer, Tokenizer) else tokenizer
    return network.to(where).eval(), transform, plain, where


def _cut(image: Image.Image) -> Image.Image:
    side = encoders.ELONGATED * min(image.size)
    left, top = max(0, image.width - side) // 2, max(0, image.height - side) // 2
    return image.crop((left, top, min(image.width, left + side), min(image.height, top + side)))
