"""The failures a user meets: one to fix before the command can run, one that costs a shard, one that costs an image."""

import pickle
import struct
import sys

# what torch.load raises of a file that holds no weights, or damaged ones
NO_WEIGHTS = (pickle.UnpicklingError, EOFError, OSError, RuntimeError, LookupError, ValueError, TypeError,
              AttributeError, AssertionError, StopIteration, struct.error)  # fmt: skip


class CurateError(Exception):
    """The user can fix it: the command prints this one line and exits 1."""


class BadShard(Exception):
    """This shard cannot be processed; the others go on and the command exits 1 at the end."""


class UndecodableImage(ValueError):
    """The bytes are no whole image of a size that can be decoded."""


def client_errors() -> tuple[type[Exception], ...]:
    """What the clients of stores raise, beside OSError, where a store does not answer or does not let us in."""
    clients = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"))
    return tuple(getattr(sys.modules[module], name) for module, name in clients if module in sys.modules)
