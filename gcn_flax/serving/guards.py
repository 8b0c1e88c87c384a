"""Wraps the application: a log of requests, answers that reach clients that still send, refusal of other sites."""

import asyncio
import contextlib
import logging
import time
import traceback
import urllib.parse
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gcn_flax.printable import one_line

_log = logging.getLogger(__name__)
_MAX_SHOWN = 100  # Characters of a path or header in logs and messages.
_DISCARD_SECONDS = 10


class RequestLog:
  """Logs method, path, status and time of each request, and errors that nothing else has caught."""

  def __init__(self, app: ASGIApp):
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    started, status, outcome = time.monotonic(), None, "no answer"

    async def sent(message: Message) -> None:
      nonlocal status
      status = message.get("status", status)
      await send(message)

    try:
      await self._app(scope, receive, sent)
      outcome = status
    except ClientDisconnect:
      outcome = "the client hung up"
    except Exception as error:  # Starlette has answered, and raises it again for the log.
      outcome = status
      place = traceback.extract_tb(error.__traceback__)[-1]
      _log.error("error: %s: %s (%s:%d)", type(error).__name__, one_line(error)[:500], place.filename, place.lineno)
    finally:
      path = one_line(scope["path"])[:_MAX_SHOWN]
      _log.info("%s %s: %s, %.2f s", scope["method"][:10], path, outcome, time.monotonic() - started)


class EarlyAnswers:
  """Lets a client read an answer that is given before all of its body has arrived.

  The rest of the body is read and discarded, for some seconds at most. Otherwise the connection would be reset, and
  many clients would report only that.
  """

  def __init__(self, app: ASGIApp):
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    is_complete = False

    async def received() -> Message:
      nonlocal is_complete
      message = await receive()
      is_complete = not message.get("more_body", False)
      return message

    async def sent(message: Message) -> None:
      is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
      if is_last and not is_complete:
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError):
          async with asyncio.timeout(_DISCARD_SECONDS):
            while not is_complete:
              await received()
        message = {"type": "http.response.body"}
      await send(message)

    await self._app(scope, received, sent)


class OwnPagesOnly:
  """Refuses requests that a page of another site sends through the user's browser, with status 403.

  Such a page gives itself away by its `Origin` or, if its name was made to point to this machine (DNS rebinding), by
  `Host`.

  Args:
    app: the application.
    hosts: names that the server may be called by; () for any.
  """

  def __init__(self, app: ASGIApp, hosts: Collection[str]):
    self._app, self._hosts = app, hosts

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    problem = self._problem(Headers(scope=scope))
    await (error_response(403, problem) if problem else self._app)(scope, receive, send)

  def _problem(self, headers: Headers) -> str:
    host, origin = headers.get("host", ""), headers.get("origin")
    if self._hosts and _hostname(host) not in self._hosts:
      return f"Host: {one_line(host)[:_MAX_SHOWN]}: is not this server. Use {' or '.join(self._hosts)}."
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
      return f"Origin: {one_line(origin)[:_MAX_SHOWN]}: is another site. Open the page of this server."
    return ""


def error_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
  """Returns the answer to a request that is refused: `{"error": text}`, on one line."""
  return JSONResponse({"error": one_line(text)}, status, headers)


def _hostname(netloc: str) -> str | None:
  try:
    return urllib.parse.urlsplit(f"//{netloc}").hostname
  except ValueError:
    return None
