"""What a model said of each image of a benchmark: from `curate eval`, or from any table with a key and the answer."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from curate.errors import CurateError
from curate.files import Folder

KEYS = ("benchmark_key", "key")
FORMS = (".parquet", ".csv", ".jsonl")


def read(given: Sequence[str], benchmarks: Sequence[str]) -> dict[str, "Predictions"]:
    """benchmark -> predictions, of "BENCHMARK=FILE" or of a folder that holds BENCHMARK-predictions.parquet as `curate
    eval` writes it. Raises CurateError for a benchmark that was not given and for a file that cannot be used."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if equals and "/" not in name:
            if name not in benchmarks:
                known = ", ".join(benchmarks) or "none"
                raise CurateError(f"--predictions {text}: no benchmark '{name}' in --against (it names: {known})")
            found[name] = path
        else:
            held = {each: f"{text.rstrip('/')}/{each}-predictions.parquet" for each in benchmarks}
            held = {each: path for each, path in held.items() if _exists(path)}
            if not held:
                wanted = f"{benchmarks[0] if benchmarks else 'BENCHMARK'}-predictions.parquet"
                raise CurateError(f"--predictions {text}: no {wanted} there; write BENCHMARK=FILE, or run curate eval")
            found |= held
    return {name: _of_file(path) for name, path in found.items()}


@dataclass(frozen=True)
class Predictions:
    """Whether a model was right, by the key of the image."""

    path: str
    right: dict[str, bool]

    def of(self, keys: Sequence[str], benchmark: str) -> tuple[np.ndarray, np.ndarray]:
        """(known, correct): boolean, for each key whether it is told and whether the model was right. Raises
        CurateError where none is told."""
        known = np.array([key in self.right for key in keys], bool)
        if not known.any():
            shown = f"such as '{next(iter(self.right))}', not '{keys[0]}'" if self.right else "it is empty"
            raise CurateError(f"{self.path} tells nothing of benchmark {benchmark}: its keys are others, {shown}")
        return known, np.array([self.right.get(key, False) for key in keys], bool)


def _of_file(path: str) -> Predictions:
    """Columns: benchmark_key or key, and correct (0 or 1) or label and prediction."""
    if not path.endswith(FORMS):
        raise CurateError(f"--predictions {path}: it is none of {', '.join(FORMS)}")
    if not _exists(path):
        raise CurateError(f"--predictions {path}: no such file")
    table = _table(path)
    name = next((column for column in KEYS if column in table.column_names), None)
    if name is None:
        raise CurateError(f"{path} has no column key; it has: {', '.join(table.column_names)}")
    right = dict(zip(table[name].cast(pa.string()).to_pylist(), _right(table, path), strict=True))
    if len(right) < len(table):
        raise CurateError(f"{path} has {len(table) - len(right):,} keys twice; give one row for each image")
    return Predictions(path, right)


def _right(table: pa.Table, path: str) -> list[bool]:
    if "correct" in table.column_names:
        values = table["correct"].to_pylist()
        if not all(value in (0, 1) for value in values):
            raise CurateError(f"{path}: column correct holds more than 0 and 1")
        return [bool(value) for value in values]
    if not {"label", "prediction"} <= set(table.column_names):
        raise CurateError(f"{path} has neither a column correct (0 or 1) nor label and prediction")
    if table["label"].null_count or table["prediction"].null_count:
        raise CurateError(f"{path}: label or prediction is missing in some rows")
    return pc.equal(table["label"].cast(pa.string()), table["prediction"].cast(pa.string())).to_pylist()


def _table(path: str) -> pa.Table:
    folder, name = _place(path)
    if path.endswith(".parquet"):
        return folder.read_table(name)
    data = folder.read_bytes(name)
    try:
        if path.endswith(".csv"):
            texts = csv.ConvertOptions(column_types=dict.fromkeys((*KEYS, "label", "prediction"), pa.string()))
            return csv.read_csv(io.BytesIO(data), convert_options=texts)
        return pa.Table.from_pylist([json.loads(line) for line in data.decode().splitlines() if line.strip()])
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, AttributeError) as error:
        raise CurateError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _exists(path: str) -> bool:
    folder, name = _place(path)
    return folder.exists(name)


def _place(path: str) -> tuple[Folder, str]:
    folder, _, name = path.rpartition("/")
    return Folder(folder or "."), name
