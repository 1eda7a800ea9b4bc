"""eval-data: equal compute, controls of the same size, and no winner that is not one."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from conftest import COLOURS, SHAPES, draw, encoded, pair

from curate.cli import main
from curate.compare import run, verdict
from curate.compare.arms import Arm, arms_of
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.files import Folder
from curate.shard import tar_bytes

ARMS = [Arm("best", "d", {}, 10), Arm("random", "d", {}, 10, "best"), Arm("all", "d", {}, 20)]


def runs(*values):
    return [{"top-1": value} for value in values]


def uids(dataset, name):
    return {uid for shard in dataset.shards for uid in dataset.kept(shard, name)["uid"].to_pylist()}


def selected(dataset, name, parent, weight_of):
    """A selection as filter writes it, of weight_of(caption)."""
    dataset = Dataset.open(dataset.url)
    for shard in dataset.shards:
        rows, kept = shard.rows(), dataset.kept(shard, parent)
        rows = rows if kept is None else rows.filter(pc.is_in(rows["uid"], kept["uid"]))
        weights = [weight_of(caption) for caption in rows["caption"].to_pylist()]
        reasons = pa.array([None if weight else "dropped" for weight in weights], pa.string())
        table = pa.table({"uid": rows["uid"], "weight": pa.array(weights, pa.int32()), "reason": reasons})
        dataset.folder.write_table(f"selections/{name}/{shard.name}.parquet", table)
    return dataset.after("filter", {}, name, **dataset.with_selection(name, "filter", parent)).save()


@pytest.fixture
def chosen(make_dataset):
    """60 pairs in 3 shards; "blue" keeps the 20 of two colours, "third" the 8 circles of those."""
    dataset = make_dataset([pair(index) for index in range(60)])
    selected(dataset, "blue", None, lambda caption: int("blue" in caption or "black" in caption))
    return selected(dataset, "third", "blue", lambda caption: int("circle" in caption))


def test_intervals_are_welchs():
    first, second = [0.50, 0.53, 0.51], [0.40, 0.48, 0.41]
    found = verdict.welch(first, second, 0.05)
    assert (found.low, found.high) == pytest.approx((-0.01243348806, 0.17910015473))  # ttest_ind of scipy


def test_a_clear_difference_has_a_winner():
    reached = {"best": runs(0.50, 0.51, 0.52), "random": runs(0.30, 0.31, 0.29), "all": runs(0.40, 0.41, 0.40)}
    judged = verdict.judge(reached, ARMS)[0]
    assert judged["winner"] == "best"
    assert [each["better"] for each in judged["comparisons"]] == ["best", "best"]
    assert judged["corrected_for"] == 2


def test_inside_the_spread_nobody_wins():
    reached = {"best": runs(0.50, 0.40, 0.45), "random": runs(0.42, 0.41, 0.46), "all": runs(0.1, 0.1, 0.1)}
    judged = verdict.judge(reached, ARMS)[0]
    assert judged["comparisons"][0]["better"] is None
    assert judged["comparisons"][1]["better"] == "best"
    assert judged["winner"] is None, "who is no better than as many random pairs wins nothing"


def test_more_comparisons_ask_for_more():
    one = {"best": runs(0.50, 0.51, 0.52), "random": runs(0.46, 0.47, 0.48), "all": runs(0.46, 0.47, 0.48)}
    assert verdict.judge(one, ARMS)[0]["winner"] == "best"
    many = {name: [{f"m{at}": run["top-1"] for at in range(40)} for run in each] for name, each in one.items()}
    assert verdict.judge(many, ARMS)[0]["winner"] is None


def test_noise_alone_seldom_has_a_winner():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        reached = {arm.name: runs(*rng.normal(0.4, 0.02, 3)) for arm in ARMS}
        wrong += any(each["better"] for each in verdict.judge(reached, ARMS)[0]["comparisons"])
    assert wrong / 300 < 0.08


def test_runs_that_agree_by_chance_do_not_stop_the_arithmetic():
    assert verdict.welch([0.5] * 3, [0.5] * 3, 0.05).low < 0 < verdict.welch([0.5] * 3, [0.5] * 3, 0.05).high


@pytest.mark.slow
def test_controls_are_as_many_pairs_drawn_from_the_parent_anew_for_each_seed(chosen):
    arms = {arm.name: arm for arm in arms_of([chosen.url + ":third", chosen.url + ":all"], None, [0, 1], True)}
    dataset = Dataset.open(chosen.url)
    control = arms["random, as many as third"]
    drawn = [uids(dataset, control.selections[seed]) for seed in "01"]
    third, blue = uids(dataset, "third"), uids(dataset, "blue")
    assert [len(each) for each in drawn] == [len(third)] * 2
    assert control.pairs == arms["third"].pairs == len(third)
    assert drawn[0] != drawn[1]
    assert all(each < blue for each in drawn), "third was chosen from blue"
    assert dataset.selection == "third", "the current selection stays"
    assert len(uids(dataset, arms["all"].selections["0"])) == 60
    again = {arm.name: arm for arm in arms_of([chosen.url + ":third", chosen.url + ":all"], None, [0, 1], True)}
    assert again == arms
    assert len(Dataset.open(chosen.url).history) == len(dataset.history), "nothing is drawn twice"
    other = arms_of([chosen.url + ":third"], "all", [0], True)[1]
    assert not uids(Dataset.open(chosen.url), other.selections["0"]) <= blue


def test_a_control_counts_pairs_as_often_as_the_selection_does(chosen):
    dataset = selected(chosen, "often", None, lambda caption: ("red" in caption) * (3 if "circle" in caption else 1))
    arms = arms_of([dataset.url + ":often"], None, [0], True)
    weights = [np.sort(np.concatenate([Dataset.open(dataset.url).kept(shard, arm.selections["0"])["weight"].to_numpy()
                                       for shard in dataset.shards])) for arm in arms]  # fmt: skip
    assert weights[0].tolist() == weights[1].tolist()
    assert set(weights[0].tolist()) == {1, 3}


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([":third"], {"seeds": 2}, "from fewer than 3 runs no spread can be told"),
        ([":third"], {"budget": 8}, "less than one batch of 16"),
        ([":third"], {"batch_size": 0}, "--batch-size 0 is not a positive number"),
        ([":third"], {"device": "gpu"}, "no device 'gpu' here; use --device"),
        ([":nothing"], {}, "has no selection 'nothing'"),
        ([":all"], {}, "one arm alone is no comparison"),
        ([":third", ":third"], {}, "third is named twice"),
        ([":blue"], {"pool": "third"}, "fewer than the 20 of blue"),
    ],
)
def test_what_is_no_comparison_is_one_line(chosen, tmp_path, data, options, message):
    (tmp_path / "set/red").mkdir(parents=True)
    draw("red", "circle").save(tmp_path / "set/red/a.png")
    asked = {"benchmarks": [str(tmp_path / "set")], "budget": 64, "batch_size": 16, "model": "ViT-Test-32"}
    with pytest.raises(CurateError, match=message):
        run([chosen.url + part for part in data], out=str(tmp_path / "out"), **asked | options)
    assert not (tmp_path / "out/runs").exists()


@pytest.mark.slow
def test_the_command_trains_alike_measures_and_goes_on_where_it_stopped(chosen, tmp_path):
    folder, files = Folder(str(tmp_path / "shapes")), []
    for at in range(18):
        colour, shape = COLOURS[at % 6], SHAPES[at % 3]
        image, text = encoded(draw(colour, shape, 900 + at), "PNG"), f"a {colour} {shape}"
        files += [(f"{at:02d}.png", image), (f"{at:02d}.cls", str(at % 6).encode()), (f"{at:02d}.txt", text.encode())]
    folder.write_bytes("test/0.tar", tar_bytes(files))
    folder.write_bytes("classnames.txt", "\n".join(COLOURS).encode())
    out = ["--out", str(tmp_path / "out"), "--device", "cpu", "-q"]
    small = ["--budget", "50", "--batch-size", "16", "--model", "ViT-Test-32"]
    command = ["eval-data", f"{chosen.url}:blue", "--benchmark", folder.url, *small, *out]
    outcome = CliRunner().invoke(main, command)
    assert outcome.exit_code == 0, outcome.output
    out = Folder(str(tmp_path / "out"))
    result = out.read_json("eval-data.json")
    assert [arm["name"] for arm in result["arms"]] == ["blue", "random, as many as blue"]
    assert [arm["pairs"] for arm in result["arms"]] == [20, 20]
    ran = {name: out.read_json(name) for name in out.names("runs/*/run.json")}
    assert len(ran) == 6
    assert {about["numbers"]["steps"] for about in ran.values()} == {4}, "50 pairs in batches of 16, whatever there is"
    assert set(result["arms"][0]["reached"][0]) == {"shapes: zero-shot top-1", "shapes: retrieval R@1"}
    assert "less random, as many as blue" in outcome.output
    assert "<svg" in out.read_bytes("eval-data.html").decode()
    assert not out.names("runs/*/checkpoints/*")
    before = {name: out.read_bytes(name) for name in out.names("runs/*/model.pt")}
    out.remove("runs/blue-s1")
    again = CliRunner().invoke(main, [*command, "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.output.splitlines()[-1])["arms"] == result["arms"], "the same, whether at once or in parts"
    assert {name: out.read_bytes(name) for name in out.names("runs/*/model.pt")} == before
