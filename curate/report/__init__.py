"""One self-contained HTML page about a dataset, and the same numbers as JSON beside it.

rows reads the columns, collect gathers the numbers, samples chooses the pictures, charts draws SVG, page puts them
together. Nothing is fetched when the page is opened: style, script and thumbnails are inside it.
"""

from collections.abc import Sequence
from typing import Any

from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.report import collect, comparisons, difference_page, differences, page, samples, training


def run(
    dataset: Dataset, out: str | None = None, runs: Sequence[str] = (), selection: str | None = None,
    blur: str = "nsfw", diff: str | None = None, eval_data: Sequence[str] = (),
) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Write the page (DATASET/reports/report.html by default) and report.json; summary, numbers and failed shards.

    `selection`: whose rows are kept (the current one by default). `blur`: which pictures are blurred until asked for:
    "nsfw" (those that a column "nsfw" or "punsafe" does not call safe), "all" or "none". `runs`, `eval_data`: folders
    that train-clip and eval-data wrote.

    With `diff`, a selection of the same dataset or another dataset, the page (DATASET/reports/diff.html by default)
    tells instead what one keeps and the other does not.

    Raises CurateError where a folder is not what it is given for, there is no such selection, or the page cannot be
    written.
    """
    dataset.check_selection(selection)
    if diff is not None:
        if runs or eval_data:
            raise CurateError(f"--{'run' if runs else 'eval-data'} has no place in a --diff; make a report of each "
                              "dataset with its runs")  # fmt: skip
        return _differences(dataset, out, selection or dataset.selection, diff, blur)
    trained = {"runs": [training.read(run) for run in runs], "comparisons": [comparisons.read(at) for at in eval_data]}
    gathered = collect.gather(dataset, selection or dataset.selection)
    numbers = {**gathered.numbers, **trained}
    shown = samples.choose(dataset, gathered, blur)
    html = page.render(numbers, shown)
    where = _write(out or f"{dataset.folder.within('reports').url}/report.html", html, numbers)
    summary = f"report: {where} with {shown.count:,} pictures; open it in a browser"
    return summary, numbers, {**gathered.failures, **shown.failures}


def _differences(
    dataset: Dataset, out: str | None, selection: str | None, other: str, blur: str
) -> tuple[str, dict[str, Any], dict[str, str]]:
    a, b = differences.sides(dataset, selection, other)
    numbers = differences.compare(a, b)
    shown, failures = difference_page.choose(a, b, blur)
    html = difference_page.render(numbers, shown)
    where = _write(out or f"{dataset.folder.within('reports').url}/diff.html", html, numbers)
    each = f"{numbers['only_a']:,} only in {a.name}, {numbers['only_b']:,} only in {b.name}"
    return (
        f"report: {numbers['both']:,} pairs in both, {each}; {where}",
        numbers,
        {**a.rows.failures, **b.rows.failures, **failures},
    )


def _write(out: str, html: str, numbers: dict[str, Any]) -> str:
    """The page and its JSON; where it lies and how large it is."""
    folder, _, name = out.rpartition("/")
    place = Folder(folder or ".")
    place.write_bytes(name, html.encode())
    place.write_json(f"{name.removesuffix('.html')}.json", numbers)
    return f"{place.url}/{name}, {len(html.encode()) / 1e6:.1f} MB"
