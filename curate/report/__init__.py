"""One self-contained HTML page about a dataset, and the same numbers as JSON beside it.

collect gathers the numbers, samples chooses the pictures, charts draws SVG, page puts them together. Nothing is fetched
when the page is opened: style, script and thumbnails are inside it.
"""

from collections.abc import Sequence
from typing import Any

from curate.dataset import Dataset
from curate.files import Folder
from curate.report import collect, page, samples, training


def run(
    dataset: Dataset, out: str | None = None, runs: Sequence[str] = ()
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Write the page (DATASET/reports/report.html by default) and report.json; summary, numbers and failed shards.

    Raises CurateError where a run folder is none, or the page cannot be written.
    """
    trained = [training.read(run) for run in runs]
    gathered = collect.gather(dataset)
    numbers = {**gathered.numbers, "runs": trained}
    shown = samples.choose(dataset, gathered)
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
