"""What overlap does to a model's accuracy, by scipy's own functions; predictions in every form; the page of pairs."""

import json
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from conftest import encoded, pair
from test_dedup_rules import scene

from curate import report
from curate.cli import main
from curate.clip import models
from curate.clip.model_config import find_config
from curate.dedup import run as dedup
from curate.dedup.predictions import read
from curate.dedup.significance import contamination, corrected
from curate.errors import CurateError

HERE = "local(workers=1)"


def answers(right_clean: int, clean: int, right_overlap: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """(correct, overlapping): boolean [clean + overlap]."""
    correct = np.concatenate([np.arange(clean) < right_clean, np.arange(overlap) < right_overlap])
    return correct, np.arange(clean + overlap) >= clean


@pytest.mark.parametrize(
    ("counts", "p", "interval"),
    [
        ((60, 100, 18, 20), 0.0036114720591288708, (0.5858907274962903, 0.996291108788567)),
        ((60, 100, 20, 20), 3.656158440062977e-05, (0.7411344491069477, 1.0)),
        ((60, 100, 0, 20), 1.0, (0.0, 0.2588655508930531)),
        ((1, 3, 1, 1), 1 / 3, (0.0025, 1.0)),
        ((90, 90, 5, 9), 1.0, (0.12519601095584046, 0.9281621648335147)),
    ],
)
def test_p_and_interval_are_the_one_tailed_binomial_and_clopper_and_pearson(counts, p, interval):
    """As scipy.stats has them: binom.sf, beta.ppf."""
    right_clean, clean, right, overlap = counts
    found = contamination(*answers(*counts))
    assert found["p"] == pytest.approx(p, abs=1e-12)
    assert found["interval"] == pytest.approx(interval, abs=2e-6)
    everything = (right_clean + right) / (clean + overlap)
    assert found["all"] == {"images": clean + overlap, "right": right_clean + right, "accuracy": round(everything, 6)}
    assert found["difference"] == pytest.approx(everything - right_clean / clean, abs=1e-6)


def test_without_overlap_or_without_clean_images_there_is_no_p():
    for counts in ((60, 100, 0, 0), (0, 0, 18, 20)):
        found = corrected({"one": contamination(*answers(*counts))})["one"]
        assert (found["p"], found["p_corrected"], found["significant"]) == (None, None, False)


def test_p_is_multiplied_by_the_number_of_benchmarks_that_have_one():
    clear, unclear = contamination(*answers(60, 100, 18, 20)), contamination(*answers(60, 100, 12, 20))
    none = contamination(*answers(60, 100, 0, 0))
    found = corrected({"a": clear, "b": unclear, "c": none})
    assert found["a"]["p_corrected"] == pytest.approx(2 * clear["p"])
    assert found["b"]["p_corrected"] == min(1.0, 2 * unclear["p"])
    assert [found[name]["significant"] for name in "abc"] == [True, False, False]
    border = {**clear, "p": 0.02}
    assert corrected({"a": border})["a"]["significant"]
    assert not corrected(dict.fromkeys("abc", border))["a"]["significant"]


@pytest.fixture
def overlapping(make_dataset, tmp_path):
    """A pool that holds 4 of the 12 pictures of a benchmark, which is a folder called "held"."""
    folder = tmp_path / "held"
    folder.mkdir()
    for index in range(12):
        scene(index).save(folder / f"{index:02d}.png")
    return make_dataset([{**pair(index), "image": encoded(scene(8 + index))} for index in range(10)]), str(folder)


def rows(right: list[int]) -> list[dict]:
    return [{"key": f"{index:02d}.png", "correct": int(index in right)} for index in range(12)]


def as_file(path, kind: str, told: list[dict]) -> str:
    file = path / f"said.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(told), file)
    elif kind == "csv":
        lines = [",".join(map(str, row.values())) for row in told]
        file.write_text("\n".join([",".join(told[0]), *lines]))
    else:
        file.write_text("\n".join(map(json.dumps, told)))
    return str(file)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("form", ["correct", "label"])
def test_predictions_are_read_from_tables_of_any_kind(tmp_path, kind, form):
    told = rows([1, 3])
    if form == "label":
        told = [{"benchmark_key": row["key"], "label": 5, "prediction": 5 if row["correct"] else 6} for row in told]
    found = read([f"held={as_file(tmp_path, kind, told)}"], ["held"])["held"]
    assert found.right == {f"{index:02d}.png": index in (1, 3) for index in range(12)}


@pytest.mark.parametrize(
    ("text", "told", "message"),
    [
        ("other={}", rows([1]), "no benchmark 'other' in --against .it names: held"),
        ("held=nowhere.csv", rows([1]), "no such file"),
        ("held={}", [{"key": "00.png", "correct": 2}], "more than 0 and 1"),
        ("held={}", [{"name": "00.png", "correct": 1}], "no column key; it has: name, correct"),
        ("held={}", [{"key": "00.png"}], "neither a column correct"),
        ("held={}", rows([1]) * 2, "12 keys twice"),
    ],
)
def test_predictions_that_cannot_be_used_are_one_clear_line(tmp_path, text, told, message):
    with pytest.raises(CurateError, match=message):
        read([text.format(as_file(tmp_path, "csv", told))], ["held"])


def test_keys_of_another_benchmark_are_named(overlapping, tmp_path):
    dataset, folder = overlapping
    told = [{**row, "key": f"val/{row['key']}"} for row in rows([1])]
    with pytest.raises(CurateError, match=r"nothing of benchmark held.*such as 'val/00\.png', not '\d\d\.png'"):
        dedup(dataset, against=[folder], predictions=[f"held={as_file(tmp_path, 'csv', told)}"], engine=HERE)
    assert not dataset.folder.exists("signals")  # told before the pool is looked at


@pytest.mark.slow
def test_accuracy_on_all_clean_and_overlap_is_told_and_written(overlapping, tmp_path):
    dataset, folder = overlapping
    said = as_file(tmp_path, "csv", rows([0, 1, 8, 9, 10, 11])[:-1])  # no word of the last picture
    options = ["--against", folder, "--predictions", f"held={said}", "--engine", HERE]
    result = CliRunner().invoke(main, ["dedup", dataset.url, *options])
    assert result.exit_code == 0, result.output
    found = dataset.folder.read_json("reports/contamination.json")["held"]
    assert found["without_prediction"] == 1
    assert (found["all"]["images"], found["clean"]["right"], found["clean"]["images"]) == (11, 2, 8)
    assert found["overlap"] == {"images": 3, "right": 3, "accuracy": 1.0}
    assert found["p"] == pytest.approx(0.25**3)
    assert "held       11      3        45.45 %  25.00 %  100.00 %" in result.output


class Tags(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.pairs, self.images, self.words = 0, 0, ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.pairs += ("class", "pair") in attributes
        self.images += tag == "img" and dict(attributes)["src"].startswith("data:image")

    def handle_data(self, data):
        self.words += data


@pytest.mark.slow
def test_the_report_shows_pairs_side_by_side_and_what_overlap_does(overlapping, tmp_path):
    dataset, folder = overlapping
    said = as_file(tmp_path, "parquet", rows([0, 1, 8, 9, 10, 11]))
    dataset = dedup(dataset, against=[folder], predictions=[f"held={said}"], engine=HERE)
    report.run(dataset)
    page = Tags(dataset.folder.read_bytes("reports/report.html").decode())
    assert page.pairs == 4
    assert page.images >= 8
    assert "held 4 benchmark images, 4 pairs; the least certain first" in page.words
    assert "99.5 % interval of overlap" in page.words
    assert "100.00 %" in page.words
    assert dataset.folder.read_json("reports/report.json")["contamination"]["held"]["overlap"]["images"] == 4


@pytest.mark.slow
def test_a_checkpoint_answers_for_the_benchmarks_that_have_classes(make_dataset, tmp_path):
    for index in range(8):
        for name in (f"classes/{'odd' if index % 2 else 'even'}", "plain"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            scene(index).save(tmp_path / name / f"{index}.png")
    name, config = find_config("ViT-Test-32")
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    torch.save(models.build(config).state_dict(), tmp_path / "run" / "model.pt")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    dataset = make_dataset([{**pair(index), "image": encoded(scene(index))} for index in range(3)])
    plain, classes = str(tmp_path / "plain"), str(tmp_path / "classes")
    command = ["dedup", dataset.url, "--checkpoint", str(tmp_path / "run"), "--engine", HERE, "--against", plain]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "no benchmark of --against has classes" in result.output
    assert not dataset.folder.exists("signals")
    result = CliRunner().invoke(main, [*command, "--against", classes])
    assert result.exit_code == 0, result.output
    found = dataset.folder.read_json("reports/contamination.json")
    assert list(found) == ["classes"]
    said = pq.read_table(tmp_path / "run" / "eval" / "classes-predictions.parquet")
    assert found["classes"]["all"]["right"] == pc.sum(said["correct"].cast("int8")).as_py()
    assert (found["classes"]["all"]["images"], found["classes"]["overlap"]["images"]) == (8, 3)
