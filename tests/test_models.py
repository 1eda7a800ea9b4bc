"""Models: the features are open_clip's, whatever the weights come from, and what is wrong is said in one line."""

import json
import subprocess
import sys

import huggingface_hub
import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from conftest import draw, encoded
from PIL import Image

from curate.clip import encoders, models
from curate.clip.model_config import PRECISIONS, config_of, find_config, made_by
from curate.clip.tokenizer import Tokenizer
from curate.errors import CurateError
from curate.rows import Rows
from curate.signals.clip import Signal

TINY = "ViT-Test-32"
TEXTS = [
    "a red square",
    "",
    "!!! wow !",
    "café &amp; thé",
    "x " * 50,
    "<end_of_text> here",
    "日本 🍎",
    "it's 3 o'clock",
]


@pytest.fixture(scope="module")
def tokenizers():
    return Tokenizer(16), open_clip.SimpleTokenizer(context_length=16)


def fresh(seed=0, **changes):
    config = {**find_config(TINY)[1], **changes}
    torch.manual_seed(seed)
    return models.build(config).eval()


def siglip_like():
    """A text tower without a causal mask, pooled at the last token."""
    text = find_config(TINY)[1]["text_cfg"]
    return fresh(custom_text=True, text_cfg={**text, "no_causal_mask": True, "pool_type": "last"})


LIGHT = """
import sys
from curate.clip import models
assert not {"timm", "torch._dynamo", "sympy", "wandb"} & sys.modules.keys()
sys.modules["wandb"] = None  # timm would import it, too
import timm, torch, torchvision
tower = {"timm_model_name": "resnet10t", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
model = models.build({"embed_dim": 8, "vision_cfg": tower, "text_cfg": {"width": 8, "heads": 1, "layers": 1}})
assert type(model.visual.trunk) is timm.models.resnet.ResNet
assert type(model.visual) is sys.modules["open_clip.timm_model"].TimmModel
assert "torch._dynamo.convert_frame" in sys.modules  # timm asks for it
like = torchvision.tv_tensors.Image(torch.zeros(1, 2, 2))
assert type(torchvision.tv_tensors.wrap(torch.zeros(2), like=like)) is torchvision.tv_tensors.Image
torch.use_deterministic_algorithms(True)
box = torch.tensor([[0.0, 0, 0, 4, 4]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), box, (2, 2)).tolist() == [[[[1, 1], [1, 1]]]]
"""


@pytest.mark.slow
def test_timm_and_the_compiler_are_loaded_when_they_are_asked_for():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "make", [fresh, lambda: fresh(custom_text=True), siglip_like], ids=["clip", "custom", "siglip"]
)
def test_text_without_padding_has_the_same_features(make):
    model, tokens = make(), Tokenizer(16)(TEXTS * 3)
    with torch.no_grad():
        torch.testing.assert_close(encoders.encode_text(model, tokens), model.encode_text(tokens), rtol=1e-6, atol=1e-6)


def gradients(model, features) -> dict[str, torch.Tensor]:
    model.zero_grad()
    features.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_features_without_needless_work_have_the_same_gradients(again):
    model, tokens = fresh().double(), Tokenizer(16)(TEXTS)
    model.set_grad_checkpointing(again)
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.double)
    for ours, theirs in ((encoders.encode_text(model, tokens), model.encode_text(tokens)),
                         (encoders.encode_image(model, pixels), model.encode_image(pixels))):  # fmt: skip
        wanted = gradients(model, theirs)
        found = gradients(model, ours)
        assert set(found) == set(wanted)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", [{}, {"pool_type": "avg"}, {"final_ln_after_pool": True}, {"no_ln_pre": True}],
                         ids=["class token", "mean", "norm last", "no first norm"])  # fmt: skip
def test_image_features_are_open_clips(changes):
    vision = find_config(TINY)[1]["vision_cfg"]
    model = fresh(vision_cfg={**vision, **changes}).double()
    pixels = torch.randn(40, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(encoders.encode_image(model, pixels), model.encode_image(pixels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["clip", "quickgelu", "siglip"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 2e-2)])
def test_prepared_models_give_open_clips_features(kind, precision, tolerance):
    make = siglip_like if kind == "siglip" else lambda: fresh(quick_gelu=kind == "quickgelu")
    images = [np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8) for seed in range(20)]
    plain, tokens = make(), Tokenizer(16)(TEXTS)
    clip = models.ClipModel(TINY, make(), Tokenizer(16), {}, torch.device("cpu"), precision)
    with torch.no_grad():
        pixels = encoders.normalised(torch.stack([encoders.resized(image, 32) for image in images]), plain)
        wanted = plain.encode_image(pixels, normalize=True).numpy(), plain.encode_text(tokens, normalize=True).numpy()
    for found, features in zip((clip.encode_images(images), clip.encode_texts(TEXTS)), wanted, strict=True):
        assert found.dtype == np.float32
        assert np.abs(found - features).max() < tolerance


def test_features_are_the_same_bits_for_any_number_of_threads():
    clip = models.ClipModel(TINY, fresh(), Tokenizer(16), {}, torch.device("cpu"))
    images = [np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8) for seed in range(20)]
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(np.concatenate([clip.encode_images(images), clip.encode_texts(TEXTS * 5)]))
    torch.set_num_threads(before)
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


def test_the_precision_that_is_used_stands_in_made_by(tmp_path):
    torch.save(fresh().state_dict(), tmp_path / "weights.pt")
    signals = {name: Signal(str(tmp_path / "weights.pt"), TINY, "cpu", name) for name in PRECISIONS}
    used = {name: signal.made_by["precision"] for name, signal in signals.items()}
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert used == {"fp32": "fp32", "bf16": "bf16", "auto": "bf16" if native else "fp32"}
    assert models.load(TINY, str(tmp_path / "weights.pt"), "cpu", "auto").precision == used["auto"]
    with pytest.raises(CurateError, match=r"^no precision 'fp16'; choose from: auto, fp32, bf16$"):
        Signal(str(tmp_path / "weights.pt"), TINY, "cpu", "fp16")


def test_each_caption_of_a_shard_is_encoded_once(tmp_path):
    torch.save(fresh().state_dict(), tmp_path / "weights.pt")
    signal, shard = Signal(str(tmp_path / "weights.pt"), TINY, "cpu"), {}
    image = encoded(draw("red", "circle"))
    captions = [["a dog", "a cat", "a dog"], ["a cat", "a bird", "a dog"]]
    found = [signal.measure(Rows(pa.table({"caption": some}), [image] * 3, shard))["clip"] for some in captions]
    assert sorted(shard[signal]) == ["a bird", "a cat", "a dog"]
    assert found[0][1] == found[1][0]
    assert found[0][0] == found[0][2] == found[1][2]


@pytest.mark.parametrize(
    "text", [*TEXTS, "Tab\tand\nline", "“curly” ﬁgure", "&lt;b&gt;", "ÃƒÂ© mojibake", "\x1b[31m red"]
)
def test_tokenizer_equals_open_clips(text, tokenizers):
    ours, theirs = tokenizers
    assert ours([text, text]).tolist() == theirs([text, text]).tolist()


def test_tokenizer_forgets_before_it_grows_without_end(monkeypatch):
    monkeypatch.setattr("curate.clip.tokenizer.REMEMBERED", 3)
    ours, theirs = Tokenizer(16), open_clip.SimpleTokenizer(context_length=16)
    texts = ["one two three", "four five <end_of_text>", "six one seven", "<end_of_text>"]
    assert ours(texts).tolist() == theirs(texts).tolist()
    assert len(ours._words) <= 3


@pytest.mark.parametrize("side", [(90, 64), (64, 90), (32, 32), (20, 45)])
def test_preprocessing_is_open_clips_to_a_fraction_of_a_level(side):
    image = draw("red", "circle", 1, 128).resize(side)
    theirs = open_clip.image_transform(32, is_train=False, mean=(0, 0, 0), std=(1 / 255,) * 3)(image)
    ours = encoders.resized(np.asarray(image), 32)
    assert ours.dtype == torch.uint8
    assert (ours.float() - theirs).abs().mean() < 0.5


def test_very_long_images_are_cut_before_they_are_resized():
    image = np.zeros((2, 100_000, 3), np.uint8)
    image[:, 49_900:50_100] = 255
    assert (encoders.resized(image, 32) == 255).all()


def test_squash_keeps_the_whole_image():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, :10] = 255
    assert encoders.resized(image, 32, squash=True)[0, 16, 2] == 255


def test_features_are_unit_vectors_equal_to_open_clips(tmp_path):
    model = fresh()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    clip = models.load(TINY, str(tmp_path / "weights.pt"), "cpu")
    image = np.asarray(draw("blue", "square", 2, 32))
    transform = open_clip.image_transform(32, is_train=False)
    with torch.no_grad():
        theirs = model.encode_image(transform(Image.fromarray(image))[None], normalize=True).numpy()
        texts = model.encode_text(open_clip.SimpleTokenizer(context_length=16)(TEXTS), normalize=True).numpy()
    np.testing.assert_allclose(clip.encode_images([image]), theirs, atol=1e-5)
    np.testing.assert_allclose(clip.encode_texts(TEXTS), texts, atol=1e-5)
    assert clip.encode_images([]).shape == clip.encode_texts([]).shape == (0, 16)


def test_every_form_of_checkpoint_loads(tmp_path):
    model = fresh(seed=3)
    wrapped = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "optimizer": {}}
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.save(wrapped, tmp_path / "epoch_3.pt")
    (tmp_path / "config.json").write_text(json.dumps(find_config(TINY)[1]))
    expected = models.load(TINY, str(tmp_path / "model.pt"), "cpu").encode_texts(TEXTS)
    for given, name in ((str(tmp_path), None), (str(tmp_path / "epoch_3.pt"), None),
                        (str(tmp_path / "epoch_3.pt"), str(tmp_path / "config.json"))):  # fmt: skip
        assert (models.load(name, given, "cpu").encode_texts(TEXTS) == expected).all()


def test_made_by_tells_other_weights_without_loading_them(tmp_path):
    made = []
    for seed in (0, 0, 1):
        torch.save(fresh(seed).state_dict(), tmp_path / "weights.pt")
        made.append(made_by(TINY, str(tmp_path / "weights.pt")))
    assert made[0] == made[1] == {"model": TINY, "weights": made[0]["weights"]}
    assert made[2]["weights"] != made[0]["weights"]


def test_a_pretrained_tag_brings_its_own_activation():
    assert config_of("ViT-B-32", "openai")[1]["quick_gelu"] is True
    assert "quick_gelu" not in config_of("ViT-B-32", "laion2b_s34b_b79k")[1]


@pytest.mark.slow
def test_a_tag_that_cannot_be_downloaded_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CurateError, match=r"^ViT-B-32 laion400m_e32 cannot be downloaded \(.*\); give a checkpoint .*$"
    ):
        models.load("ViT-B-32", "laion400m_e32", "cpu")


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.pt").write_text("no weights")
    (folder / "empty.pt").write_bytes(b"")
    torch.save({"a": torch.zeros(2)}, folder / "other.pt")
    torch.save(fresh(embed_dim=8).state_dict(), folder / "wide.pt")
    narrow = fresh().state_dict()
    narrow["positional_embedding"] = narrow["positional_embedding"][:, :8]
    torch.save(narrow, folder / "narrow.pt")
    torch.save({"state_dict": print}, folder / "code.pt")
    (folder / "words.pt").write_text("red circle\nsquare\nblue\n")  # an unpickler finds its stack empty
    (folder / "bad.json").write_text("{")
    (folder / "half.json").write_text('{"embed_dim": 8}')
    (folder / "unfinished").mkdir()
    return folder


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-33", "openai", "no model called 'ViT-B-33'; near it: ViT-B-32"),
        ("ViT-B-32", "openia", "no file, run or tag 'openia' for ViT-B-32; its tags: openai"),
        (TINY, "openai", "has no pretrained tag"),
        (None, "missing", "no such run or checkpoint: missing"),
        (TINY, None, "needs weights"),
        (None, "unfinished", "is not a run: it has no model.pt"),
        (None, "other.pt", "does not say which model it is"),
        (TINY, "text.pt", "is not an open_clip checkpoint"),
        (TINY, "empty.pt", "is not an open_clip checkpoint"),
        (TINY, "words.pt", "is not an open_clip checkpoint"),
        (TINY, "code.pt", "is not an open_clip checkpoint"),
        (TINY, "other.pt", "do not fit ViT-Test-32"),
        (TINY, "wide.pt", "do not fit ViT-Test-32"),
        (TINY, "narrow.pt", "do not fit ViT-Test-32: text pos_embed width changed"),
        ("bad.json", "other.pt", "bad.json is not valid JSON"),
        ("half.json", "other.pt", "lacks vision_cfg, text_cfg"),
        ("none.json", "other.pt", "no such model config: none.json"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_in_one_line(bad_files, monkeypatch, model, pretrained, message):
    monkeypatch.chdir(bad_files)
    with pytest.raises(CurateError) as error:
        models.load(model, pretrained, "cpu")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(CurateError, match="no device 'cuda:9' here"):
        models.torch_device("cuda:9")
