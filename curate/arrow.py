"""pyarrow as our own processes use it: without pandas, which it imports at the first array it makes of anything."""

import sys

import pyarrow as pa


class _Hidden:
    """A finder that knows of no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def without_pandas() -> None:
    """Let pyarrow look for pandas now, where it finds none, and never again: 0.7 CPU seconds and 58 MB for a process.

    Whoever imports pandas later has it whole; `to_pandas` and `from_pandas` then look again. Only `pa.array(series)`
    takes a series for any sequence. Does nothing where pandas is imported already.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _Hidden)  # type: ignore[arg-type]
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_Hidden)  # type: ignore[arg-type]
