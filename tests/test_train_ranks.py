"""Several processes take the steps that one takes: real processes that talk through gloo."""

import json

import pytest
import torch

from curate.errors import CurateError
from curate.train import ranks, sharding


def assert_same(found, wanted):
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-12)
    for name, weight in found["weights"].items():
        assert (weight - wanted["weights"][name]).abs().max() < 1e-9, name


@pytest.mark.slow
def test_one_two_and_four_processes_give_the_same_weights_and_two_with_half_of_them_each(
    tmp_path, dataset, start_together
):
    for size in (1, 2, 4):
        ended = [process.ended() for process in start_together(size, str(tmp_path), dataset.url, module="ranks_run")]
        assert [code for code, _, _ in ended] == [0] * size, ended
    for objective in ("clip", "siglip"):
        one, *others = (torch.load(tmp_path / f"{objective}-{size}.pt") for size in (1, 2, 4))
        for several in others:
            assert_same(several, one)
        assert len(set(one["losses"])) == 3
    whole, half = (torch.load(tmp_path / f"resnet-{fsdp}.pt") for fsdp in (False, True))
    assert_same(half, whole)
    assert half["kept"] < 0.51 * whole["kept"]
    owns, said = zip(*(json.loads((tmp_path / f"own-{rank}.json").read_text()) for rank in (0, 1)), strict=True)
    assert json.loads((tmp_path / "bad-batch.json").read_text())["uids"] == [*owns[0], *owns[1]]
    assert len({*owns[0], *owns[1]}) == 16
    assert said[0] == said[1]
    assert (tmp_path / "told.txt").read_text().startswith("another process of this run has not come for 30 minutes")


def test_what_processes_cannot_share_is_refused():
    ranks.check(ranks.Ranks(0, 4), 128)
    with pytest.raises(CurateError, match="--fsdp and --compile do not go together"):
        sharding.check(ranks.Ranks(0, 2), compiled=True)
    with pytest.raises(CurateError, match=r"a batch of 130 cannot be shared by 4 processes: --batch-size 128"):
        ranks.check(ranks.Ranks(0, 4), 130)
