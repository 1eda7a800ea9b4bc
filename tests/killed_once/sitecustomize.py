"""Every process of a command kills it, with all that it has started, once a file is there that KILLED_ONCE (a pattern)
names: at the next file that is to appear, which is left half-written."""

import glob
import os
import signal
import sys


def end_once_there(event: str, _: object) -> None:
    if event == "os.rename" and glob.glob(os.environ["KILLED_ONCE"]):
        os.killpg(0, signal.SIGKILL)


sys.addaudithook(end_once_there)
