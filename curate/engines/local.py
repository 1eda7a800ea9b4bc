"""Processes on this machine; one worker means in this very process."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from curate.errors import BadShard, CurateError
from curate.work import Report, Task

RETRIES = 2  # a worker killed from outside (out of memory, say): its items are tried again this often


class Engine:
    """`workers` processes, one for each core by default; tasks start in the order of their items."""

    def __init__(self, workers: int | None = None):
        if workers is not None and (not isinstance(workers, int) or workers < 0):
            raise CurateError(f"local(workers={workers}): workers is a whole number, 0 or 1 for this process alone")
        self.workers = os.cpu_count() or 1 if workers is None else workers

    def map(self, task: Task, items: Sequence[Any]) -> Iterator[tuple[int, Report | BadShard]]:
        if self.workers <= 1 or len(items) <= 1:
            for index, item in enumerate(items):
                yield index, attempt(task, item)
            return
        waiting = list(enumerate(items))
        for _ in range(RETRIES + 1):
            done = set()
            try:
                for index, result in self._run(task, waiting):
                    done.add(index)
                    yield index, result
                return
            except BrokenProcessPool:
                waiting = [(index, item) for index, item in waiting if index not in done]
        names = ", ".join(str(item) for _, item in waiting[: self.workers])
        raise CurateError(
            f"a worker was killed {RETRIES + 1} times (out of memory?) near {names}; "
            f"use fewer workers: --engine 'local(workers={max(1, self.workers // 2)})'. What is done is kept."
        )

    def _run(self, task: Task, waiting: list[tuple[int, Any]]) -> Iterator[tuple[int, Report | BadShard]]:
        # spawn, not fork: torch, faiss and pyarrow own threads that a fork would lose
        context = multiprocessing.get_context("spawn")
        queue = iter(waiting)
        with ProcessPoolExecutor(min(self.workers, len(waiting)), context, initializer=_one_thread) as pool:
            running: dict[Future[Report | BadShard], int] = {}
            try:
                while True:
                    while len(running) < 2 * self.workers and (item := next(queue, None)):
                        running[pool.submit(attempt, task, item[1])] = item[0]
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def attempt(task: Task, item: Any) -> Report | BadShard:
    """The report of one item, or the BadShard that it raised."""
    try:
        return task(item)
    except BadShard as error:
        return error


def _one_thread() -> None:
    # many processes with one thread each beat one process with many: measured 1.4 to 4 times less CPU
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
