"""One self-contained HTML page about a dataset, and the same numbers as JSON beside it.

rows reads the columns, collect gathers the numbers, samples chooses the pictures, charts draws SVG, page puts them
together. Nothing is fetched when the page is opened: style, script and thumbnails are inside it.
"""

from collections.abc import Sequence
from typing import Any

from curate.dataset import Dataset
from curate.files import Folder
from curate.report import collect, page, samples, training


def run(
    dataset: Dataset, out: str | None = None, runs: Sequence[str] = (), selection: str | None = None,
    blur: str = "nsfw",
) -> tuple[str, dict[str, Any], dict[str, str]]:  # fmt: skip
    """Write the page (DATASET/reports/report.html by default) and report.json; summary, numbers and failed shards.

    `selection`: whose rows are kept (the current one by default). `blur`: which pictures are blurred until asked for:
    "nsfw" (those that a column "nsfw" or "punsafe" does not call safe), "all" or "none".

    Raises CurateError where a run folder is none, there is no such selection, or the page cannot be written.
    """
    dataset.check_selection(selection)
    trained = [training.read(run) for run in runs]
    gathered = collect.gather(dataset, selection or dataset.selection)
    numbers = {**gathered.numbers, "runs": trained}
    shown = samples.choose(dataset, gathered, blur)
    folder, name = _place(dataset, out)
    html = page.render(numbers, shown)
    folder.write_bytes(name, html.encode())
    folder.write_json(f"{name.removesuffix('.html')}.json", numbers)
    size = f"{len(html.encode()) / 1e6:.1f} MB with {shown.count:,} pictures"
    summary = f"report: {folder.url}/{name}, {size}; open it in a browser"
    return summary, numbers, {**gathered.failures, **shown.failures}


def _place(dataset: Dataset, out: str | None) -> tuple[Folder, str]:
    if out is None:
        return dataset.folder.within("reports"), "report.html"
    folder, _, name = out.rpartition("/")
    return Folder(folder or "."), name
