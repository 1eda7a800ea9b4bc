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
def test_one_two_and_four_processes_give_the_same_weights(tmp_path):
    ports = [str(free_port()) for _ in range(3)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, SCRIPT, str(tmp_path), *ports], check=True, env=environment, timeout=280)
    for objective in ("clip", "siglip"):
        one, *others = (torch.load(tmp_path / f"{objective}-{size}.pt") for size in (1, 2, 4))
        for several in others:
            assert several["losses"] == pytest.approx(one["losses"], rel=1e-12)
            for name, weight in several["weights"].items():
                assert (weight - one["weights"][name]).abs().max() < 1e-9, name
        assert len(set(one["losses"])) == 3


def test_a_batch_that_processes_cannot_share_is_refused():
    ranks.check(ranks.Ranks(0, 4), 128)
    with pytest.raises(CurateError, match=r"a batch of 130 cannot be shared by 4 processes: --batch-size 128"):
        ranks.check(ranks.Ranks(0, 4), 130)
