"""Takes turns: one prediction at a time, in the order of the requests, and only so many at once."""

import asyncio
import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

Result = TypeVar("Result")
_MAX_RETRY_SECONDS = 60


class Turns:
  """A bounded queue in front of one thread, to be used within one event loop.

  Args:
    places: number of requests that may send their picture, wait, or have their turn at the same time.

  Attributes:
    taken: number of places that are taken.
  """

  def __init__(self, places: int):
    self.taken = 0
    self._places, self._seconds = places, 0.0
    self._turn = asyncio.Lock()  # It is given in the order in which it was asked for.
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "prediction")

  @contextlib.contextmanager
  def place(self) -> Iterator[None]:
    """Takes a place in its context. Raises HTTPException, 503 with Retry-After, if there is none."""
    if self.taken >= self._places:
      seconds = min(max(1, math.ceil(self._places * self._seconds)), _MAX_RETRY_SECONDS)
      raise HTTPException(
        503, f"{self._places} pictures are waiting already. Try again in {seconds} s.", {"Retry-After": str(seconds)}
      )
    self.taken += 1
    try:
      yield
    finally:
      self.taken -= 1

  async def run(self, function: Callable[..., Result], *args: Any) -> Result:
    """Returns `function(*args)`, computed by the thread when its turn comes.

    If it is cancelled while it waits, it gives up its turn; later, it first waits for the function to end.
    """
    async with self._turn:
      started = time.monotonic()
      job = asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
      try:
        return await asyncio.shield(job)
      except asyncio.CancelledError:
        await asyncio.wait({job})
        raise
      finally:
        self._seconds = time.monotonic() - started

  def close(self) -> None:
    """Waits for the function that runs now, if there is one."""
    self._thread.shutdown(cancel_futures=True)


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
  """Returns the result of `work`; cancels it and raises ClientDisconnect if the client hangs up before.

  The body of the request must have been read.
  """
  job, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
  try:
    await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not job.done():
      raise ClientDisconnect
    return job.result()
  finally:
    gone.cancel()
    job.cancel()
    await asyncio.wait({job, gone})


async def _disconnected(request: Request) -> None:
  while (await request.receive())["type"] != "http.disconnect":
    pass
