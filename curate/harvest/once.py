"""Call a function once for each distinct argument, from many threads, and forget each answer after its last use."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any


class Once:
    """`planned` are the arguments to come, each as often as it will be asked for. What is raised is shared too."""

    def __init__(self, function: Callable[[str], Any], planned: Iterable[str]):
        self._function, self._left = function, Counter(planned)
        self._answers: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, argument: str) -> Any:
        with self._lock:
            first = argument not in self._answers
            answer = self._answers.setdefault(argument, Future())
            self._left[argument] -= 1
            if not self._left[argument]:
                del self._answers[argument]
        if first:
            try:
                answer.set_result(self._function(argument))
            except BaseException as error:
                answer.set_exception(error)
                raise
        return answer.result()
