"""Serves a page to try a network on, and its predictions, over HTTP: `--mode=serve`."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator

import jax
import ml_collections
import uvicorn

from gcn_flax import files
from gcn_flax.messages import flag
from gcn_flax.preflight import check_pixels, preflight
from gcn_flax.printable import printable
from gcn_flax.segmenter import Segmenter
from gcn_flax.serving.app import Service
from gcn_flax.workdir.samples import sample_pictures
from gcn_flax.workdir.trained import load_trained
from gcn_flax.workdir.workdir import Workdir

_log = logging.getLogger(__name__)
_MAX_CONNECTIONS = 500  # Below the usual limit of 1,024 open files.
_STOP_SECONDS = 10  # For answers under way when the server is stopped.
_HEADERS = [
  ("Cache-Control", "no-store"),
  ("Cross-Origin-Resource-Policy", "same-origin"),  # Pages of other sites cannot embed pictures from here.
  ("Referrer-Policy", "no-referrer"),
  ("X-Content-Type-Options", "nosniff"),
]


def run(
  config: ml_collections.ConfigDict,
  workdir: Workdir | files.Path | str,
  host: str = "127.0.0.1",
  port: int = 8000,
  checkpoint: str = "best",
) -> None:
  """Serves a network until a signal stops it; writes no file.

  Args:
    config: config of the network and the evaluation.
    workdir: workdir of the run.
    host: name or address of this machine; other machines can reach the server unless it is a loopback address.
    port: TCP port, 0 for any free one.
    checkpoint: `best`, `last` or a step.

  Raises:
    ValueError: if host and port cannot be used, and for what `preflight` and `load_trained` reject.
  """
  workdir = Workdir(workdir)
  check_pixels(config, "serve")
  if jax.process_count() > 1:
    raise ValueError(f"--mode=serve: one host serves, not {jax.process_count()}. Start it on one host.")
  with listen(host, port) as listener:
    preflight(config, workdir)
    service = Service(Segmenter(config, load_trained(config, workdir, checkpoint)), _samples(workdir))
    names = _loopback_names(host)
    if not names:
      _log.warning("WARNING: --host=%s: whoever can reach this machine can use the server; there is no password.", host)
    print(f"serving {printable(workdir)} on {_url(host, listener)} (Ctrl-C to stop)", flush=True)
    try:
      serve(service, listener, names)
    finally:
      service.turns.close()
    print("stopped.", flush=True)


def listen(host: str, port: int) -> socket.socket:
  """Opens a listening socket. Raises ValueError if host and port cannot be used."""
  if not host:
    raise ValueError("--host='': names nothing. Use --host=127.0.0.1.")
  try:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family)
  except (OSError, UnicodeError) as error:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
      problem = f"{flag('port', port)}: is in use. Use another one, or --port=0 for any that is free."
    elif number == errno.EACCES:
      problem = f"{flag('port', port)}: needs the rights of the administrator. Use one from 1024 on."
    else:
      problem = f"{flag('host', host)}: is no address of this machine. Use --host=127.0.0.1."
    raise ValueError(problem) from error


def serve(service: Service, listener: socket.socket, names: tuple[str, ...] = ()) -> None:
  """Serves until SIGINT or SIGTERM; requests under way then have `_STOP_SECONDS` left.

  Args:
    service: what to serve.
    listener: a listening socket; it is closed at the end.
    names: names that the server may be called by; () for any.
  """
  logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # RequestLog has all that matters.
  config = uvicorn.Config(
    service.app(names),
    http="h11",
    loop="asyncio",
    ws="none",
    lifespan="off",
    log_config=None,
    access_log=False,
    server_header=False,
    headers=_HEADERS,
    limit_concurrency=_MAX_CONNECTIONS,
    timeout_graceful_shutdown=_STOP_SECONDS,
  )
  server = _Server(config)
  previous = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    asyncio.run(server.serve(sockets=[listener]))
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


class _Server(uvicorn.Server):
  """A server that leaves signals alone: Uvicorn would raise them again at its end, as if Ctrl-C were pressed twice."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield


def _samples(workdir: Workdir) -> list[bytes]:
  return [path.read_bytes() for path in sample_pictures(workdir)]


def _loopback_names(host: str) -> tuple[str, ...]:
  """Returns the names of a server that only this machine can reach; () for one that others can."""
  try:
    is_loopback = ipaddress.ip_address(host).is_loopback
  except ValueError:
    is_loopback = host == "localhost"
  return tuple(dict.fromkeys(("127.0.0.1", "localhost", "::1", host))) if is_loopback else ()


def _url(host: str, listener: socket.socket) -> str:
  name = f"[{host}]" if listener.family == socket.AF_INET6 and ":" in host else host
  return f"http://{name}:{listener.getsockname()[1]}/"
