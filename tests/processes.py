"""Commands that run beside a test: started, looked at, sent signals, killed. What runs is read from /proc (Linux)."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Command:
    """A command that runs as a process and a session of its own; see command_server."""

    def __init__(self, server: subprocess.Popen, folder: Path, arguments: list[str], **how: Any):
        self.server, self.out, self.errors = server, folder / "out", folder / "errors"
        self.pid = self._ask({"run": arguments, "out": str(self.out), "errors": str(self.errors), **how})

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """To the command and all that it has started, as a terminal does."""
        os.killpg(self.pid, number)

    def ended(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr), once it has ended."""
        return self._ask({"wait": self.pid}), self.out.read_text(), self.errors.read_text()

    def killed(self) -> None:
        """Once it and all that it has started are gone, of a kill -9."""
        code, _, said = self.ended()
        assert code == -signal.SIGKILL, (code, said)
        wait_for_group(self.pid)

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Until something has happened, of which the command must not end."""
        while not happened():
            assert any(process.pid == self.pid for process in running()), self.ended()
            time.sleep(0.005)

    def worker(self) -> int:
        """One of its worker processes, once there is one."""
        self.wait_for(lambda: workers_of(self.pid))
        return workers_of(self.pid)[0]

    def _ask(self, what: dict) -> int:
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


class Process(NamedTuple):
    pid: int
    parent: int
    group: int


def running() -> list[Process]:
    """The processes of this machine, but for those that have ended and are not yet waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just gone
            state, parent, group = (path / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            if state not in "ZX":
                found.append(Process(int(path.name), int(parent), int(group)))
    return found


def wait_for_group(group: int) -> None:
    """Until no process of a group runs."""
    while any(process.group == group for process in running()):
        time.sleep(0.005)


def workers_of(driver: int) -> list[int]:
    """The worker processes of a driver: what was forked from the server among its children."""
    now = running()
    servers = {process.pid for process in now if process.parent == driver and _serves_forks(process.pid)}
    return [process.pid for process in now if process.parent in servers]


def _serves_forks(process: int) -> bool:
    with contextlib.suppress(OSError):
        return b"forkserver" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False
