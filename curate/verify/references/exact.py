"""exact: the SHA-256 of the file."""

import hashlib


class Reference:
    tolerance = 0.0

    def measure(self, images, captions) -> dict[str, list]:
        return {"exact_bytes": [hashlib.sha256(encoded).digest() for encoded in images]}
