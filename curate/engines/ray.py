"""A Ray cluster, existing or started here: the same tasks, models loaded once in each of its worker processes."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from curate.engines.local import KILLS, attempt
from curate.errors import BadShard, CurateError
from curate.work import Report, Task


class Engine:
    """`address` as ray.init takes it ("auto", "ray://host:10001", none = start here); `cpus`, `gpus` for each task.

    The nodes of an existing cluster need curate installed, in the same version.
    """

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float = 0, workers: int | None = None):
        self.address, self.cpus, self.gpus, self.workers = address, cpus, gpus, workers

    def map(self, task: Task, items: Sequence[Any]) -> Iterator[tuple[int, Report | BadShard]]:
        self._connect()
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=KILLS - 1)(attempt)
        shared = ray.put(task)
        queue = iter(enumerate(items))
        limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / max(self.cpus, 0.01)))
        running: dict[Any, tuple[int, Any]] = {}
        lost, most = 0, KILLS * min(limit, len(items))  # workers in a row
        try:
            while True:
                while len(running) < limit and (entry := next(queue, None)):
                    running[remote.remote(shared, entry[1])] = entry
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    index, item = running.pop(reference)
                    found = self._result(reference, item)
                    lost = lost + KILLS if isinstance(found, _Killed) else 0
                    if lost > most:
                        raise CurateError(f"{lost:,} Ray workers in a row were killed and nothing got done: {found}")
                    yield index, found
        finally:
            for reference in running:  # after an error or Ctrl-C nobody waits for these
                ray.cancel(reference, force=True)

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        # processes started here find what this process can import, the user's own plug-in files among it
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        try:
            if self.address:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            else:
                ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False, configure_logging=False,
                         runtime_env=environment)  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise CurateError(f"no Ray cluster at address={self.address}: {reason}") from error

    def _result(self, reference: Any, item: Any) -> Report | BadShard:
        try:
            return ray.get(reference)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
            return _Killed(f"{item}: {KILLS} workers were killed over it (out of memory?)")
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CurateError):
                raise error.cause from error
            raise


class _Killed(BadShard):
    """An item whose workers died each time that Ray tried it."""
