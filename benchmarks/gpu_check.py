"""What only a GPU can prove, part after part; one that fails does not stop the others, but is told at the end.

    python benchmarks/gpu_check.py [PART ...] [--seconds 600]

`make gpu-check` runs all parts, `make gpu-check PARTS="answers search"` some. Each is ended after --seconds. How each
went is in results/gpu_check.json, with the last lines it said; what it measured is in files of its own:
train_gpu.json, train_gpu_vs_open_clip.json, search_gpu.json.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "gpu_check.json"
PYTEST = [sys.executable, "-m", "pytest", "-m", "gpu", "-rsf"]
MODELS, BATCHES = ("ViT-B-32", "RN50"), (2048, 32_768)
PARTS = {
    "answers": [*PYTEST, "tests/test_gpu.py", "-k", "not keeps_up"],  # equal to those of the CPU
    "steps": [*PYTEST, "tests/test_gpu_steps.py", "tests/test_train_step.py"],
    "scoring": [*PYTEST, "tests/test_gpu.py", "-k", "keeps_up"],
    **{f"speed-{model}": [*PYTEST, "tests/test_gpu_train.py", "-k", model] for model in MODELS},
    **{f"beside-{model}-{batch}": [sys.executable, "benchmarks/train_gpu_vs_open_clip.py", "--models", model,
                                   "--batches", str(batch)] for model in MODELS for batch in BATCHES},
    "search": [sys.executable, "benchmarks/search_gpu.py"],
}  # fmt: skip
TAIL = 30  # lines that are kept


def ran(command: list[str], seconds: float) -> tuple[int, list[str]]:
    """(exit code, last lines) of a command, ended with all it has started after so many seconds; what it says is passed
    on."""
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": search}, "start_new_session": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **own)
    end = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    end.start()
    tail: deque[str] = deque(maxlen=TAIL)
    assert process.stdout
    for line in process.stdout:
        print(line, end="", flush=True)
        tail.append(line.rstrip("\n"))
    code = process.wait()
    end.cancel()
    return code, list(tail)


def keep(name: str, found: dict) -> None:
    """Put how a part went beside the others."""
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**before, name: found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=600, help="after which a part is ended")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part '{unknown[0]}'; choose from: {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        raise SystemExit(f"gpu-check: torch {torch.__version__} finds no CUDA device here; nothing was checked")
    failed = []
    for part in options.parts or PARTS:
        print(f"---- {part}", flush=True)
        start = time.perf_counter()
        code, tail = ran(PARTS[part], options.seconds)
        seconds = round(time.perf_counter() - start, 1)
        ended = "too long" if code == -signal.SIGKILL and seconds >= options.seconds else code
        failed += [part] if code else []
        keep(part, {"date": datetime.date.today().isoformat(), "gpu": torch.cuda.get_device_name(),
                    "cores": os.cpu_count(), "torch": torch.__version__, "seconds": seconds, "exit": ended,
                    "said": tail})  # fmt: skip
        print(f"---- {part}: {f'failed ({ended})' if code else 'passed'} in {seconds:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"gpu-check: {', '.join(failed)} failed, see {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
