"""Models: the features are open_clip's, whatever the weights come from, and what is wrong is said in one line."""

import json

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from conftest import draw
from PIL import Image

from curate import encoders, models
from curate.errors import CurateError
from curate.tokenizer import Tokenizer

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
    config = {**models.find_config(TINY)[1], **changes}
    torch.manual_seed(seed)
    return models.build(config).eval()


def siglip_like():
    """A text tower without a causal mask, pooled at the last token."""
    text = models.find_config(TINY)[1]["text_cfg"]
    return fresh(custom_text=True, text_cfg={**text, "no_causal_mask": True, "pool_type": "last"})


@pytest.mark.parametrize(
    "make", [fresh, lambda: fresh(custom_text=True), siglip_like], ids=["clip", "custom", "siglip"]
)
def test_text_without_padding_has_the_same_features(make):
    model, tokens = make(), Tokenizer(16)(TEXTS * 3)
    with torch.no_grad():
        torch.testing.assert_close(encoders.encode_text(model, tokens), model.encode_text(tokens), rtol=0, atol=1e-6)


def test_text_without_padding_has_the_same_gradients():
    model, tokens = fresh().double(), Tokenizer(16)(TEXTS)
    gradients = []
    for encode in (lambda: encoders.encode_text(model, tokens), lambda: model.encode_text(tokens)):
        model.zero_grad()
        encode().square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "text", [*TEXTS, "Tab\tand\nline", "“curly” ﬁgure", "&lt;b&gt;", "ÃƒÂ© mojibake", "\x1b[31m red"]
)
def test_tokenizer_equals_open_clips(text, tokenizers):
    ours, theirs = tokenizers
    assert ours([text, text]).tolist() == theirs([text, text]).tolist()


def test_tokenizer_forgets_before_it_grows_without_end(monkeypatch):
    monkeypatch.setattr("curate.tokenizer.REMEMBERED", 3)
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
    (tmp_path / "config.json").write_text(json.dumps(models.find_config(TINY)[1]))
    expected = models.load(TINY, str(tmp_path / "model.pt"), "cpu").encode_texts(TEXTS)
    for given, name in ((str(tmp_path), None), (str(tmp_path / "epoch_3.pt"), None),
                        (str(tmp_path / "epoch_3.pt"), str(tmp_path / "config.json"))):  # fmt: skip
        assert (models.load(name, given, "cpu").encode_texts(TEXTS) == expected).all()


def test_made_by_tells_other_weights_without_loading_them(tmp_path):
    made = []
    for seed in (0, 0, 1):
        torch.save(fresh(seed).state_dict(), tmp_path / "weights.pt")
        made.append(models.made_by(TINY, str(tmp_path / "weights.pt")))
    assert made[0] == made[1] == {"model": TINY, "weights": made[0]["weights"]}
    assert made[2]["weights"] != made[0]["weights"]


def test_a_pretrained_tag_brings_its_own_activation():
    assert models.config_of("ViT-B-32", "openai")[1]["quick_gelu"] is True
    assert "quick_gelu" not in models.config_of("ViT-B-32", "laion2b_s34b_b79k")[1]


@pytest.mark.slow
def test_a_tag_that_cannot_be_downloaded_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CurateError, match=r"^ViT-B-32 laion400m_e32 cannot be downloaded \(.*\); give a checkpoint .*$"
    ):
        models.load("ViT-B-32", "laion400m_e32", "cpu")


def bad_files(folder):
    (folder / "text.pt").write_text("no weights")
    (folder / "empty.pt").write_bytes(b"")
    torch.save({"a": torch.zeros(2)}, folder / "other.pt")
    torch.save(fresh(embed_dim=8).state_dict(), folder / "wide.pt")
    torch.save({"state_dict": print}, folder / "code.pt")
    (folder / "bad.json").write_text("{")
    (folder / "half.json").write_text('{"embed_dim": 8}')
    (folder / "unfinished").mkdir()


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
        (TINY, "code.pt", "is not an open_clip checkpoint"),
        (TINY, "other.pt", "do not fit ViT-Test-32"),
        (TINY, "wide.pt", "do not fit ViT-Test-32"),
        ("bad.json", "other.pt", "bad.json is not valid JSON"),
        ("half.json", "other.pt", "lacks vision_cfg, text_cfg"),
        ("none.json", "other.pt", "no such model config: none.json"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_in_one_line(tmp_path, monkeypatch, model, pretrained, message):
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path)
    with pytest.raises(CurateError) as error:
        models.load(model, pretrained, "cpu")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(CurateError, match="no device 'cuda:9' here"):
        models.torch_device("cuda:9")
