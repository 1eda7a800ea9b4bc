"""Untrusted encoded images to bounded JPEG: peek, decode, resize."""
