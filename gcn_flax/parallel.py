"""Maps a function over a stream of arguments in threads."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def parallel_map(
  function: Callable[[Argument], Result], arguments: Iterable[Argument], num_threads: int
) -> Iterator[Result]:
  """Yields `function(argument)` for each argument, in order, computed by `num_threads` threads.

  Unlike `Executor.map` it takes arguments only as threads become free: at most `num_threads + 1` of them are
  waiting, being worked on, or finished and not yet yielded. An error of the function is raised in its turn.
  """
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    pending = collections.deque()
    for argument in arguments:
      pending.append(pool.submit(function, argument))
      if len(pending) > num_threads:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
