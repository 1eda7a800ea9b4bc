"""Processes on this machine, watched: a killed one costs nothing but time; one worker means in this very process."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any, NoReturn

from curate.errors import BadShard, CurateError
from curate.memory import without_pandas
from curate.work import Report, Task

KILLS = 3  # workers that an item may cost before it is given up; so many of each may be lost while nothing gets done
GRACE = 1.5  # seconds that an interrupted worker has to tidy up
IMPORTED = 78  # exit status of a worker that found itself inside the import of the user's script

# torch, faiss and pyarrow own threads that a fork of the driver would lose. Workers are forked from a server that has
# imported what they need and runs nothing: one starts in 0.07 s of CPU instead of 0.9. Elsewhere each starts anew.
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
IMPORTS = ("curate.dataset", "pyarrow.compute")
THREADED = ("torch", "faiss")  # start threads as they are imported: the server leaves them to the workers
# many processes with one thread each beat one process with many: measured 1.4 to 4 times less CPU
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Engine:
    """`workers` processes, one for each core by default; tasks start in the order of their items.

    A worker that is killed from outside (out of memory, say) or crashes is replaced and its item tried again, after the
    others; an item that costs KILLS workers is a BadShard.
    """

    def __init__(self, workers: int | None = None):
        if workers is not None and (not isinstance(workers, int) or workers < 0):
            raise CurateError(f"local(workers={workers}): workers is a whole number, 0 or 1 for this process alone")
        self.workers = os.cpu_count() or 1 if workers is None else workers

    def map(self, task: Task, items: Sequence[Any]) -> Iterator[tuple[int, Report | BadShard]]:
        if self.workers <= 1 or len(items) <= 1:
            for index, item in enumerate(items):
                yield index, attempt(task, item)
            return
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            os._exit(IMPORTED)
        _serve_forks(type(task).__module__)
        with contextlib.closing(_Crew(task, min(self.workers, len(items)))) as crew:
            yield from crew.run(items)


def attempt(task: Task, item: Any) -> Report | BadShard:
    """The report of one item, or the BadShard that it raised."""
    try:
        return task(item)
    except BadShard as error:
        return error


def _serve_forks(module: str) -> None:
    """Start the server that workers are forked from, where none runs yet: with a task's module, if that is light."""
    if sys.platform != "linux":
        return
    heavy = not module.startswith("curate.") or any(name in sys.modules for name in THREADED)
    forkserver.set_forkserver_preload([*IMPORTS, *(() if heavy else (module,))])
    missing = {name: "1" for name in ONE_THREAD if name not in os.environ}
    os.environ.update(missing)
    try:
        with _deaf():
            forkserver.ensure_running()
    finally:
        for name in missing:
            del os.environ[name]


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes started in the block never hear Ctrl-C, which reaches the whole group: the driver ends them instead."""
    resource_tracker.ensure_running()  # else a start below does it, and that hears of all signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Crew:
    """The workers of one map, and what they were killed over."""

    def __init__(self, task: Task, size: int):
        self.task, self.size = pickle.dumps(task), size
        self.workers: list[_Worker] = []
        self.kills: Counter[int] = Counter()  # of each item
        self.lost = 0  # workers since anything got done

    def run(self, items: Sequence[Any]) -> Iterator[tuple[int, Report | BadShard]]:
        waiting = list(enumerate(items))[::-1]
        while waiting or any(worker.job for worker in self.workers):
            while len(self.workers) < self.size:
                self.workers.append(_Worker(self.task))
            for worker in self.workers:
                if waiting and worker.ready and not worker.job:
                    worker.give(waiting.pop())
            heard = connection.wait([worker.pipe for worker in self.workers])
            for worker in [worker for worker in self.workers if worker.pipe in heard]:
                if not worker.heard():
                    yield from self._dismiss(worker, waiting)
                elif found := worker.result():
                    self.lost = 0
                    yield found

    def _dismiss(self, worker: "_Worker", waiting: list[tuple[int, Any]]) -> Iterator[tuple[int, BadShard]]:
        """Take a dead worker's job back, or give the item up. Raises CurateError where going on makes no sense."""
        self.workers.remove(worker)
        how = worker.fate()
        self.lost += 1
        if self.lost > KILLS * self.size:
            raise CurateError(
                f"{self.lost} workers in a row {how} and nothing got done; use fewer: "
                f"--engine 'local(workers={max(1, self.size // 2)})'. What is done is kept."
            )
        if not worker.job:
            return
        index, item = worker.job
        self.kills[index] += 1
        if self.kills[index] < KILLS:
            waiting.insert(0, worker.job)
        else:
            yield index, BadShard(f"{item}: {KILLS} workers {how} over it; the others went on")

    def close(self) -> None:
        """End every worker, also one in the middle of an item."""
        for worker in self.workers:
            worker.process.terminate()
        end = time.monotonic() + GRACE
        for worker in self.workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


class _Worker:
    """One process and the item that it has in hand."""

    def __init__(self, task: bytes):
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, task, dict(os.environ)))
        self.ready = False
        self.said: Any = None
        self.job: tuple[int, Any] | None = None
        with _deaf():
            self.process.start()
        theirs.close()

    def give(self, job: tuple[int, Any]) -> None:
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # it died: the next look at its pipe says so
            self.pipe.send(job[1])

    def heard(self) -> bool:
        """Take what it sent; False where it is dead."""
        try:
            self.said = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return False
        return True

    def result(self) -> tuple[int, Report | BadShard] | None:
        """The result that it sent, None where it only said that it is ready. Raises what the task raised."""
        if not self.ready:
            self.ready = True
            return None
        if isinstance(self.said, _Raised):
            raise self.said.error
        assert self.job
        index, self.job = self.job[0], None
        return index, self.said

    def fate(self) -> str:
        """How a dead worker ended, in words. Raises CurateError where none like it can start."""
        self.process.join()
        status = self.process.exitcode or 0
        if status == IMPORTED:
            raise CurateError(
                "a script that uses several workers is imported by each of them: put its calls under "
                'if __name__ == "__main__": (or use --engine "local(workers=1)")'
            )
        if status >= 0 and not self.ready:
            raise CurateError(f"a worker process could not start (exit status {status}, its message is above)")
        if status == -signal.SIGKILL:
            return "were killed (out of memory?)"
        return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


class _Raised:
    """An error on its way to the driver."""

    def __init__(self, error: BaseException):
        error.add_note("".join(traceback.format_exception(error)))
        try:
            self.error = pickle.loads(pickle.dumps(error))
        except (TypeError, AttributeError, pickle.PicklingError):  # its class cannot be rebuilt from its arguments
            self.error = RuntimeError(f"{type(error).__name__}: {error}")


def _serve(pipe: connection.Connection, pickled: bytes, environment: dict[str, str]) -> NoReturn:
    """The life of a worker: it ends when it is told to, and at once with its driver."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)  # the driver's as it is now, not as it was when the server started
    signal.signal(signal.SIGTERM, _stop)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_end_with_driver, daemon=True).start()
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    without_pandas()
    gc.freeze()  # what is imported stays: not looked through again, and its pages stay shared with the server
    try:
        task = pickle.loads(pickled)
        pipe.send(None)
        while True:
            item = pipe.recv()
            try:
                found: Any = attempt(task, item)
            except SystemExit:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, the driver raises it
                found = _Raised(error)
            pipe.send(found)
    except (SystemExit, EOFError):
        os._exit(0)  # threads that still fetch or compute are not waited for


def _stop(*_: Any) -> NoReturn:
    sys.exit()  # unwinds, so that half-written files go


def _unraisable(what: Any) -> None:
    """An exit that Python swallows, as the end of a generator does, ends the worker all the same and says nothing."""
    if what.exc_type is SystemExit:
        os._exit(0)
    sys.__unraisablehook__(what)


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver
    connection.wait([driver.sentinel])
    os._exit(1)
