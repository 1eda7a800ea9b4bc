"""Commands as processes of their own, forked of one that has imported the modules named as its arguments: an import of
torch costs seconds, a fork none.

A line of JSON on stdin asks: {"run": arguments of the main of a module, ...} is answered by the process id, {"wait":
process id} by its exit code (minus the signal that killed it).
"""

import importlib
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from pathlib import Path

KILLED_ONCE = Path(__file__).parent / "killed_once"


def command(starting, module, arguments, environment, out, errors, largest_file, killed_once):
    """What `python -m MODULE` does with these arguments; its exit code. `starting` is closed once it can be killed."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    for number, place in ((1, out), (2, errors)):
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.close(starting)
    if killed_once:  # the processes that it starts anew read it as they begin
        os.environ.update(KILLED_ONCE=killed_once, PYTHONPATH=f"{KILLED_ONCE}:{os.environ.get('PYTHONPATH', '')}")
        runpy.run_path(str(KILLED_ONCE / "sitecustomize.py"))
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        importlib.import_module(module).main(arguments)
    except SystemExit as end:
        return end.code or 0
    return 0


def ended(process):
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    for name in ("curate.cli", *sys.argv[1:]):
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = ended(asked["wait"])
        else:
            started, starting = os.pipe()
            if not (answer := os.fork()):
                sys.stdin.close()
                asked["arguments"], code = asked.pop("run"), 70
                try:
                    code = command(starting, **asked)
                finally:  # never back into the loop
                    if sys.exc_info()[0]:
                        traceback.print_exc()
                    sys.stdout.flush()
                    os._exit(code)
            os.close(starting)
            os.read(started, 1)  # nothing comes: it waits for the close
            os.close(started)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
