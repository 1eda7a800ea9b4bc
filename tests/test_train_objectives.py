"""The objectives beside CLIP's and SigLIP's: the same loss as open_clip's or as plain arithmetic, exact in chunks."""

import math
from collections import Counter

import pytest
import torch
from open_clip.loss import CoCaLoss
from test_train_step import RESNET, assert_equal, batch, gradients, tiny

from curate.clip import models
from curate.clip.encoders import normalised
from curate.clip.model_config import find_config
from curate.errors import CurateError
from curate.train import captions, towers
from curate.train.chunk import cut
from curate.train.loader import Batch
from curate.train.objectives import bag_of_words, captioning, coca, ngrams
from curate.train.step import How, adamw, train_step

COCA = find_config("CoCa-Test-32")[1]
TOKENIZER = models.tokenizer_of(find_config("ViT-Test-32")[1])
CAPTIONS = ["a red circle", "a red square", "red red circle", "two blue circles", "blue", "a red circle!", ""]


def fitted(objective, config=None):
    """(model, objective) in fp64, the objective's own weights made for it."""
    model = tiny(config=config)
    objective.fit(model, CAPTIONS * 3, TOKENIZER)
    return model.double(), objective.double()


def captioned(n=7):
    return Batch(batch(n).pixels, TOKENIZER(CAPTIONS[:n]), batch(n).rows, [])


def one_chunk(pairs):
    return cut(pairs, None, torch.device("cpu"))[0]


@pytest.mark.slow
def test_the_loss_of_coca_is_open_clips():
    model, objective = fitted(coca.Objective(), COCA)
    pairs = Batch(batch(6).pixels, models.tokenizer_of(COCA)(CAPTIONS[:6]), batch(6).rows, [])
    found = gradients(model, objective, pairs)
    output = model(normalised(pairs.pixels, model).double(), pairs.tokens)
    parts = CoCaLoss(2.0, 1.0)(output["image_features"], output["text_features"], output["logits"], output["labels"],
                               output["logit_scale"])  # fmt: skip
    model.zero_grad(set_to_none=True)
    sum(parts).backward()
    assert_equal(found, [sum(parts).detach(), *(p.grad for p in model.parameters() if p.grad is not None)])


def test_a_coca_model_is_drawn_from_the_seed_alone():
    one, two = tiny(3, COCA), tiny(3, COCA)
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
    assert 0.2 < one.text_decoder.text_projection.std().item() < 0.3  # 16 ** -0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "config"),
    [(coca.Objective(), COCA), (captioning.Objective(), None), (captioning.Objective(layers=2), RESNET),
     (bag_of_words.Objective(), None), (ngrams.Objective(longest=3), None)],
)  # fmt: skip
def test_chunks_give_the_gradient_of_the_batch(objective, config):
    model, objective = fitted(objective, config)
    pairs = captioned()
    if config is COCA:
        pairs = Batch(pairs.pixels, models.tokenizer_of(COCA)(CAPTIONS), pairs.rows, [])
    if config is RESNET:
        towers.lock(model, "image")  # batch norms see their chunk
    whole = gradients(model, objective, pairs)
    ways = ((3, 1), (3, None)) if config is COCA else ((1, 0), (3, 1), (3, None))  # CoCa is slow, and has no other way
    for chunk, keep in ways:
        assert_equal(gradients(model, objective, pairs, How(chunk=chunk, keep=keep)), whole)


def test_a_bag_holds_every_word_once_and_no_start_end_or_padding():
    tokens = TOKENIZER(["red red circle!", ""])
    bags = bag_of_words.bags(tokens, 49408)
    assert bags[0].nonzero().flatten().tolist() == sorted(set(TOKENIZER.encode("red circle!")))
    assert not bags[1].any()


def test_the_loss_of_words_is_the_cross_entropy_with_each_captions_words():
    model, objective = fitted(bag_of_words.Objective())
    pairs = captioned()
    with torch.no_grad():
        logits = objective.head(model.encode_image(normalised(pairs.pixels, model).double()))
    losses = []
    for row, caption in zip(logits, CAPTIONS, strict=True):
        words = sorted(set(TOKENIZER.encode(caption)))
        if words:
            losses.append((row.logsumexp(0) - row[words].mean()).item())
    assert gradients(model, objective, pairs)[0].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_first_guess_of_words_is_how_often_they_occur():
    _, objective = fitted(bag_of_words.Objective())
    red, blue = (TOKENIZER.encode(word)[0] for word in ("red", "blue"))
    assert (objective.head.bias[red] - objective.head.bias[blue]).item() == pytest.approx(math.log(16 / 7), rel=1e-5)


def test_ngrams_are_the_frequent_ones_of_the_data_with_all_tokens():
    _, objective = fitted(ngrams.Objective(longest=3, least=6))
    counts = Counter()
    for caption in CAPTIONS * 3:
        ids = TOKENIZER.encode(caption)
        counts.update(tuple(ids[a : a + n]) for n in (1, 2, 3) for a in range(len(ids) - n + 1))
    wanted = {gram for gram, count in counts.items() if len(gram) == 1 or count >= 6}
    assert len(objective.keys) == len(wanted)
    assert torch.equal(objective.keys, objective.keys.sort().values)
    found = set()
    for caption in CAPTIONS:
        words = captions.words(TOKENIZER, [caption])
        ids = TOKENIZER.encode(caption)
        for n in (1, 2, 3):
            numbers = objective._numbers(words, n)[0].tolist()
            for end in range(n, len(ids) + 1):
                gram = tuple(ids[end - n : end])
                assert (numbers[end] != ngrams.NONE) == (gram in wanted)
                found |= {(gram, numbers[end])} if gram in wanted else set()
    assert len({number for _, number in found}) == len(found) == len(wanted)


def test_a_limit_keeps_the_most_frequent_ngrams():
    words = captions.words(TOKENIZER, CAPTIONS * 3)
    single = len(words[words >= 0].unique())
    assert len(ngrams.frequent(words, 49408, 3, 2, 1)) == single + 2
    assert len(ngrams.frequent(words, 49408, 1, 100, 1)) == single


def test_the_loss_of_ngrams_is_jelinek_mercers():
    model, objective = fitted(ngrams.Objective(longest=3, smoothing=0.3))
    pairs = captioned()
    with torch.no_grad():
        logits = objective.head(model.encode_image(normalised(pairs.pixels, model).double()))
    tokens = int(objective.number_of_tokens)
    names: dict[int, tuple[int, ...]] = {0: ()}
    for number, key in enumerate(objective.keys.tolist(), 1):
        names[number] = (*names[key // tokens], key % tokens)
    place = {name: number - 1 for number, name in names.items() if number}

    def chance(row, before, word):
        if before not in place and before:
            return chance(row, before[1:], word)
        rivals = [at for name, at in place.items() if name[:-1] == before]
        own = place.get((*before, word))
        seen = 0.0 if own is None else (row[own] - row[rivals].logsumexp(0)).exp().item()
        return seen if not before else 0.3 * seen + 0.7 * chance(row, before[1:], word)

    total, words = 0.0, 0
    for row, caption in zip(logits, CAPTIONS, strict=True):
        ids = TOKENIZER.encode(caption)
        for at, word in enumerate(ids):
            total -= math.log(chance(row, tuple(ids[max(0, at - 2) : at]), word))
            words += 1
    assert gradients(model, objective, pairs)[0].item() == pytest.approx(total / words, rel=1e-5)


def test_captions_are_told_token_by_token_up_to_their_end():
    model, objective = fitted(captioning.Objective())
    pairs = captioned(3)
    chunk = one_chunk(pairs)
    with torch.no_grad():
        grid = objective._grid(model, chunk)
        told = objective._told(grid, pairs.tokens, chunk)
        for row, caption in enumerate(CAPTIONS[:3]):
            ids = TOKENIZER.ids(caption)
            total = 0.0
            for at in range(1, len(ids)):  # each token from those before it alone
                x = objective.words(torch.tensor([ids[:at]])) + objective.places[:at]
                logits = objective.decoder(grid[row : row + 1], x)[0, -1] @ objective.words.weight.T
                total += logits.log_softmax(0)[ids[at]].item()
            assert told[row].item() == pytest.approx(total, rel=1e-9)
    assert gradients(model, objective, pairs)[0].item() == pytest.approx(
        -told.sum().item() / sum(len(TOKENIZER.ids(caption)) - 1 for caption in CAPTIONS[:3]), rel=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", [captioning.Objective(), bag_of_words.Objective(), ngrams.Objective()])
def test_what_an_objective_has_learnt_it_finds_again_without_examples(objective):
    model, pairs = tiny(), captioned(2)  # a red circle, a red square
    pairs.pixels[0], pairs.pixels[1] = 0, 255
    objective.fit(model, CAPTIONS * 3, TOKENIZER)  # n-grams are those that occur twice: "red square" among them
    towers.lock(model, "text")
    optimizer = adamw(model, 1e-2, 0.0, objective)
    losses = [train_step(model, objective, optimizer, pairs, 1e-2) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    names = TOKENIZER(CAPTIONS[:2])
    with torch.no_grad():
        scores = objective.scores(model.eval(), one_chunk(pairs), names)
    assert scores.shape == (2, 2)
    assert scores.argmax(dim=1).tolist() == [0, 1]


def test_objectives_that_do_not_fit_the_model_say_so():
    with pytest.raises(CurateError, match=r"needs a CoCa model, for example --model coca_ViT-B-32"):
        coca.Objective().fit(tiny(), CAPTIONS, TOKENIZER)
    with pytest.raises(CurateError, match=r"reads CLIP's own tokens"):
        ngrams.Objective().fit(tiny(), CAPTIONS, object())
    with pytest.raises(CurateError, match=r"ngrams\(longest=0, smoothing=0.2\)"):
        ngrams.Objective(longest=0)


def test_weights_of_an_objective_are_found_again():
    model, objective = fitted(ngrams.Objective())
    again = ngrams.Objective()
    again.fit(model, CAPTIONS * 3, TOKENIZER)
    again.double().load_state_dict(objective.state_dict())
    pairs = captioned()
    assert_equal(*(gradients(model, each, pairs)[:1] for each in (objective, again)), of=0)
