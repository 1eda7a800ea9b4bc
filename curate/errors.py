"""The failures a user meets: one to fix before the command can run, one that costs a shard, one that costs an image."""


class CurateError(Exception):
    """The user can fix it: the command prints this one line and exits 1."""


class BadShard(Exception):
    """This shard cannot be processed; the others go on and the command exits 1 at the end."""


class UndecodableImage(ValueError):
    """The bytes are no whole image of a size that can be decoded."""
