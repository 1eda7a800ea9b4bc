"""Several processes take the steps that one takes: real processes that talk through gloo."""

import pytest
import torch

from curate.errors import CurateError
from curate.train import ranks, sharding


def assert_same(found, wanted):
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-12)
    for name, weight in found["weights"].items():
        assert (weight - wanted["weights"][name]).abs().max() < 1e-9, name


@pytest.mark.slow
def test_one_two_and_four_processes_give_the_same_weights_and_two_with_half_of_them_each(tmp_path, start_together):
    for size in (1, 2, 4):
        ended = [process.ended() for process in start_together(size, str(tmp_path), module="ranks_run")]
        assert [code for code, _, _ in ended] == [0] * size, ended
    for objective in ("clip", "siglip"):
        one, *others = (torch.load(tmp_path / f"{objective}-{size}.pt") for size in (1, 2, 4))
        for several in others:
            assert_same(several, one)
        assert len(set(one["losses"])) == 3
    for name, unsharded in (("clip", "clip-1"), ("resnet", "resnet")):  # batch norm sees what its process sees
        whole, half = (torch.load(tmp_path / f"{file}.pt") for file in (unsharded, f"{name}-sharded"))
        assert_same(half, whole)
        assert half["kept"] < 0.51 * whole["kept"]


def test_what_processes_cannot_share_is_refused():
    ranks.check(ranks.Ranks(0, 4), 128)
    with pytest.raises(CurateError, match="--fsdp and --compile do not go together"):
        sharding.check(ranks.Ranks(0, 2), compiled=True)
    with pytest.raises(CurateError, match=r"a batch of 130 cannot be shared by 4 processes: --batch-size 128"):
        ranks.check(ranks.Ranks(0, 4), 130)
