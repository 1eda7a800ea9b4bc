"""Several processes take the steps that one takes: real processes that talk through gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from curate.errors import CurateError
from curate.train import ranks

SCRIPT = str(Path(__file__).parent / "ranks_run.py")


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def run_together(size, command):
    """Start `size` processes as torchrun does and wait for them; their errors."""
    port = str(free_port())
    started = []
    for rank in range(size):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
                                    "OMP_NUM_THREADS": "1"}  # fmt: skip
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=250)[1] for process in started]
    return [process.returncode for process in started], errors


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "chunk"), [("clip", 2), ("siglip", 12)])
def test_one_two_and_four_processes_give_the_same_weights(tmp_path, objective, chunk):
    found = []
    for size in (1, 2, 4):
        out = str(tmp_path / f"{size}.pt")
        codes, errors = run_together(size, [sys.executable, SCRIPT, out, objective, str(chunk)])
        assert not any(codes), errors
        found.append(torch.load(out))
    for several in found[1:]:
        assert several["losses"] == pytest.approx(found[0]["losses"], rel=1e-12)
        for name, weight in several["weights"].items():
            assert (weight - found[0]["weights"][name]).abs().max() < 1e-9, name
    assert found[0]["losses"][0] != found[0]["losses"][1]


def test_a_batch_that_processes_cannot_share_is_refused():
    ranks.check(ranks.Ranks(0, 4), 128)
    with pytest.raises(CurateError, match=r"a batch of 130 cannot be shared by 4 processes: --batch-size 128"):
        ranks.check(ranks.Ranks(0, 4), 130)
