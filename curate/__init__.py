"""curate: from the raw web to a clean image-text dataset and a CLIP model trained on it."""

__version__ = "0.1.0"
