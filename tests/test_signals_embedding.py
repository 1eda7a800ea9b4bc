"""Embeddings: networks that users bring as files, their pictures, and what is wrong with some of them."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import draw, encoded, pair
from PIL import Image

from curate import filter as filtering
from curate import measure as measuring
from curate import named
from curate.errors import CurateError
from curate.measure import measure
from curate.networks.lite0 import EfficientNetLite0
from curate.rows import Rows

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Pool(torch.nn.Module):
    """A picture's embedding: its mean colours in four quarters, as the network sees them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, (2, 2)).flatten(1)


class Broken(torch.nn.Module):
    """NaN for pictures that are mostly red."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=(2, 3))
        return torch.where((means[:, :1] > means[:, 1:2] + 0.2) & (means[:, :1] > means[:, 2:] + 0.2), torch.nan, means)


class Loose(torch.nn.Module):
    """An embedding as long as the picture is wide."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2))


def saved(module: torch.nn.Module, path) -> str:
    torch.jit.script(module.eval()).save(str(path))
    return str(path)


def quarters(picture: Image.Image, side: int) -> np.ndarray:
    """What Pool gives, by hand."""
    values = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR), np.float64) / 255
    half = side // 2
    cells = [((values - MEAN) / STD)[y : y + half, x : x + half].mean((0, 1)) for y in (0, half) for x in (0, half)]
    found = np.stack(cells, axis=1).ravel()
    return found / np.linalg.norm(found)


@pytest.mark.slow
def test_the_packaged_network_gives_the_same_features_compiled_or_not_alone_or_among_others():
    pictures = [np.asarray(draw(colour, "circle", 1, side)) for colour, side in (("red", 64), ("blue", 300))]
    ways = [EfficientNetLite0(torch.device("cpu"), compiled) for compiled in (True, False)]
    compiled, plain = (np.concatenate([way(pictures[:1]), way(pictures[1:])]) for way in ways)
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert np.abs(plain[0] - plain[1]).max() > 0.1
    assert all((way(pictures) == alone).all() for way, alone in zip(ways, (compiled, plain), strict=True))


def test_a_torchscript_file_sees_squashed_normalised_pictures(tmp_path):
    model = saved(Pool(), tmp_path / "net.torchscript.pt")
    picture = draw("red", "circle", 1, 128).resize((200, 90))
    columns = named.load("signals", f"embedding(model={model}, size=64)").measure(Rows(None, [encoded(picture, "PNG")]))
    assert columns["embedding"][0] == pytest.approx(quarters(picture, 64), abs=1e-5)


def test_an_onnx_file_gives_what_the_network_gives(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra for ONNX is not installed")
    onnx = pytest.importorskip("onnx", reason="writes the network of this test")
    nodes = [onnx.helper.make_node("AveragePool", ["x"], ["cells"], kernel_shape=[32, 32], strides=[32, 32]),
             onnx.helper.make_node("Flatten", ["cells"], ["y"])]  # fmt: skip
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
              for name, shape in (("x", [1, 3, 64, 64]), ("y", [1, 12]))]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "pool", values[:1], values[1:])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), str(path))
    pictures = [draw("red", "circle", 1, 128).resize((200, 90)), draw("blue", "square", 2, 100)]
    signal = named.load(
        "signals", f"embedding(model={path}, size=64, mean=(0.485, 0.456, 0.406), std=[.229, .224, .225])"
    )
    vectors = signal.measure(Rows(None, [encoded(picture, "PNG") for picture in pictures]))["embedding"]
    assert vectors == pytest.approx(np.stack([quarters(picture, 64) for picture in pictures]), abs=1e-5)
    with pytest.raises(CurateError, match=r"net.onnx cannot take pictures of 32 x 32"):
        named.load("signals", f"embedding(model={path}, size=32)").measure(Rows(None, [encoded(pictures[0])]))


def test_presets_say_size_colours_and_threshold_and_options_override_them(tmp_path):
    model = saved(Pool(), tmp_path / "net.pt")
    sscd = named.load("signals", f"embedding(model={model}, preset=sscd)")
    isc = named.load("signals", f"embedding(model={model}, preset=isc, size=64)")
    assert (sscd.wanted.size, sscd.wanted.squash, sscd.threshold) == (288, False, 0.75)
    assert (isc.wanted.size, isc.wanted.squash, isc.wanted.mean, isc.threshold) == (64, True, (0.5,) * 3, 0.604169)


def test_pictures_that_are_not_squashed_keep_their_shape_and_very_long_ones_their_middle(tmp_path):
    class Shape(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[float(x.shape[2]), float(x.shape[3])]])

    model = saved(Shape(), tmp_path / "net.pt")
    signal = named.load("signals", f"embedding(model={model}, size=32, squash=false)")
    noise = np.random.default_rng(0).integers(0, 256, (400, 2000, 3), np.uint8)
    files = [encoded(Image.fromarray(noise[:h, :w]), "PNG") for h, w in ((100, 200), (300, 100), (20, 2000))]
    vectors = signal.measure(Rows(None, files))["embedding"]
    assert (vectors[:, 1] / vectors[:, 0]).tolist() == pytest.approx([2, 1 / 3, 8])


def test_embeddings_are_stored_as_unit_vectors_in_half_precision_with_the_hash_of_the_weights(dataset, tmp_path):
    model = saved(Pool(), tmp_path / "net.pt")
    spec = f"embedding(model={model}, size=32, mean=(0.5, 0.5, 0.5))"
    measured = measure(dataset, [spec], "local(workers=0)")
    vectors = measured.folder.read_array("signals/embedding/00000.npy")
    assert vectors.dtype == np.float16
    assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=2e-3)
    made_by = measured.folder.made_by("signals/embedding/00000.parquet")
    assert made_by["model"] == "net.pt"
    assert len(made_by["weights"]) == 64
    assert measure(measured, [spec], "local(workers=0)").history[-1]["counts"]["skipped"] == 3
    (tmp_path / "net.pt").write_bytes((tmp_path / "net.pt").read_bytes() + b" ")
    measuring._build.cache_clear()  # as in another process
    again = measure(measured, [spec], "local(workers=0)")
    assert "was measured with another weights; delete signals/embedding" in again.failures["shards/00000"]


@pytest.mark.slow
def test_which_library_computed_the_features_is_told_and_no_reason_to_measure_again(dataset):
    measured = measure(dataset, ["embedding"], "local(workers=0)")
    name = "signals/embedding/00001.parquet"
    made_by = measured.folder.made_by(name)
    assert re.fullmatch(r"(onnxruntime|torch) [\d.]+.*", made_by["computed_by"])
    made_by["computed_by"] = "another 1.0"
    measured.folder.write_table(name, measured.folder.read_table(name), made_by)
    again = measure(measured, ["embedding"], "local(workers=0)")
    assert (again.failures, again.history[-1]["counts"]["skipped"]) == ({}, 3)
    kept = filtering.run(again, where=("not embedding_flat",), on_null="drop", signals=("embedding",),
                         engine="local(workers=0)")  # fmt: skip
    assert not kept.failures


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["embedding", "embedding(model=FILE, size=32)", "head(path=FILE)"])
def test_a_signal_whose_values_are_there_already_loads_no_torch(tmp_path, spec):
    spec = spec.replace("FILE", saved(Pool(), tmp_path / "net.pt"))
    code = (f"import sys; from curate import named; made_by = named.load('signals', {spec!r}).made_by; "
            f"print(len(made_by['weights']), sorted({{'torch', 'onnxruntime'}} & set(sys.modules)))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "64 []"


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [(Broken(), "size=32", "gives NaN or infinity for"),
     (Loose(), "size=32, squash=false", "gives embeddings of .* numbers, which cannot be compared")],
)  # fmt: skip
def test_numbers_that_cannot_be_compared_fail_the_shard_by_name(make_dataset, tmp_path, network, options, message):
    model = saved(network, tmp_path / "net.pt")
    pairs = [pair(index) for index in range(12)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    pairs[3]["image"] = encoded(Image.fromarray(noise))
    noise[:, :, 1:] //= 4
    pairs[1]["image"] = encoded(Image.fromarray(noise[:, :64]))
    for row in pairs[6:]:  # the second shard has nothing red, and squares only
        row["image"] = encoded(draw("blue", "square", int(row["key"])))
    measured = measure(make_dataset(pairs, per_shard=6), [f"embedding(model={model}, {options})"], "local(workers=0)")
    assert list(measured.failures) == ["shards/00000"]
    assert re.search(message, measured.failures["shards/00000"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [("embedding(model=none.torchscript.pt, size=9)", "no such model file: none.torchscript.pt"),
     ("embedding(model=FILE)", "needs preset=sscd"),
     ("embedding(model=FILE, preset=sscc)", "no preset 'sscc'; choose from: sscd, sscd-320, isc"),
     ("embedding(model=FILE, size=9, mean=(1, 2))", "one number or three"),
     ("embedding(model=FILE, size=9, std=0)", "of std none 0"),
     ("embedding(model=FILE, size=0)", "size=0: from 1 to 8192 pixels"),
     ("embedding(size=9)", "size is for a network in a TorchScript or ONNX file")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_any_work(tmp_path, spec, message):
    model = saved(Pool(), tmp_path / "net.pt")
    with pytest.raises(CurateError, match=message.replace("(", r"\(")):
        named.load("signals", spec.replace("FILE", model))


@pytest.mark.parametrize("name", ["net.pt", "net.onnx"])
def test_a_file_that_is_no_network_is_named(tmp_path, name):
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime", reason="the extra for ONNX is not installed")
    (tmp_path / name).write_bytes(b"not a network")
    signal = named.load("signals", f"embedding(model={tmp_path / name}, size=32)")
    with pytest.raises(CurateError, match=rf"{name} is no (TorchScript|ONNX) file"):
        signal.measure(Rows(None, [encoded(draw("red", "circle"))]))
