"""Measures what --mode=serve withstands: many requests at once, huge and tiny pictures, broken files, hang-ups.

    python benchmarks/serve.py --workdir=runs/quickstart --json=FILE

Starts the server in a separate process. Each row of the table is one kind of request: how many were sent, how many got
each answer, the time until the last answer, and the server's peak memory so far.
"""

import argparse
import collections
import concurrent.futures
import io
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import script, timing  # noqa: E402

AT_ONCE = 200


def main() -> None:
  """Measures, prints the table and writes the JSON file."""
  parser = script.parser("Measures what the server of --mode=serve withstands.")
  parser.add_argument("--workdir", default="runs/quickstart", help="workdir of a trained network")
  parser.add_argument("--size", type=int, default=256, help="side of most pictures, pixels")
  args = parser.parse_args()
  machine = script.machine(("jax", "starlette", "uvicorn"))
  print(script.headline(machine), flush=True)
  command = [sys.executable, "-m", "gcn_flax", "--mode=serve", f"--workdir={args.workdir}", "--port=0"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
    found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
    if not found:
      sys.exit(f"error: the server did not start. Run {' '.join(command)}")
    rows = _measure(args, Client(found[1], int(found[2])), process.pid)
    process.send_signal(signal.SIGINT)
    status = process.wait()
  print(timing.table(("requests", "answers", "s", "peak MB"), [list(map(str, row.values())) for row in rows]))
  print(f"\nexit status after Ctrl-C: {status}")
  script.write_json(args.json, {"settings": vars(args), "machine": machine, "rows": rows, "status": status})


class Client:
  """Sends pictures to a server."""

  def __init__(self, host: str, port: int):
    self.place = host, port
    self.url = f"http://{host}:{port}"

  def ask(self, data: bytes) -> int:
    """Returns the status of the answer to one picture."""
    return self._ask(data)[0]

  def ask_until_served(self, data: bytes) -> int:
    """Asks again, as long as the server says so, after the time that it says."""
    while True:
      status, headers = self._ask(data)
      if status != 503:
        return status
      time.sleep(int(headers["Retry-After"]))

  def hang_up(self, data: bytes, announced: int) -> str:
    """Announces a body of some bytes, sends `data` and hangs up."""
    with socket.create_connection(self.place) as connection:
      connection.sendall(
        f"POST /predict HTTP/1.1\r\nHost: {self.place[0]}\r\nContent-Length: {announced}\r\n\r\n".encode()
      )
      connection.sendall(data)
    return "hung up"

  def _ask(self, data: bytes) -> tuple[int, dict]:
    try:
      with urllib.request.urlopen(f"{self.url}/predict", data, timeout=300) as answer:
        answer.read()
        return answer.status, answer.headers
    except urllib.error.HTTPError as error:
      return error.code, error.headers


def _measure(args: argparse.Namespace, client: Client, pid: int) -> list[dict]:
  """Returns a row for each kind of request."""
  rng, side = np.random.default_rng(0), args.size
  pixels = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
  picture, photo = _encode(pixels, "PNG"), _encode(pixels, "JPEG")
  rows = []

  def measure(name: str, ask: Callable[[bytes], object], bodies: Iterable[bytes], threads: int = 1) -> None:
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      counts = collections.Counter(pool.map(ask, bodies))
    answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(counts.items(), key=str))
    seconds = f"{time.monotonic() - started:.2f}"
    rows.append({"requests": name, "answers": answers, "seconds": seconds, "peak_mb": _peak_mb(pid)})
    print(rows[-1], flush=True)

  measure(f"the first one of {side} x {side} (compiles)", client.ask, [picture])
  measure("50, one after another", client.ask, [picture] * 50)
  measure(f"{AT_ONCE} at once", client.ask, [picture] * AT_ONCE, AT_ONCE)
  measure(f"{AT_ONCE} at once, each until it is served", client.ask_until_served, [picture] * AT_ONCE, AT_ONCE)
  measure("one of 1 x 1", client.ask, [_encode(pixels[:1, :1], "PNG")])
  large = rng.integers(0, 256, (4096, 4096, 3)).astype(np.uint8)
  measure("5 PNGs of 50 MB", client.ask, [_encode(large, "PNG")] * 5, 5)
  measure("a JPEG of 4096 x 4096 (compiles)", client.ask, [_encode(large, "JPEG")])
  measure("the same again", client.ask, [_encode(large, "JPEG")])
  measure("a PNG of 40,000 x 40,000", client.ask, [_encode(np.zeros((40_000, 40_000), bool), "PNG")])
  measure(f"{AT_ONCE} JPEGs cut at random", client.ask, [photo[: rng.integers(len(photo) - 2)] for _ in range(AT_ONCE)])
  measure(f"{AT_ONCE} JPEGs with 20 random bytes", client.ask, [_damage(photo, rng) for _ in range(AT_ONCE)])
  measure(f"{AT_ONCE} files of random bytes", client.ask, [rng.bytes(10_000) for _ in range(AT_ONCE)])
  half = picture[: len(picture) // 2]
  measure(
    f"{AT_ONCE} that hang up in the middle", lambda data: client.hang_up(data, len(picture)), [half] * AT_ONCE, 20
  )
  measure(
    f"{AT_ONCE} that hang up when all is sent", lambda data: client.hang_up(data, len(data)), [picture] * AT_ONCE, 20
  )
  measure("one after all that", client.ask_until_served, [picture])
  return rows


def _encode(pixels: np.ndarray, kind: str) -> bytes:
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, kind, compress_level=1)
  return content.getvalue()


def _damage(data: bytes, rng: np.random.Generator) -> bytes:
  damaged = bytearray(data)
  for place in rng.integers(len(data), size=20):
    damaged[place] = rng.integers(256)
  return bytes(damaged)


def _peak_mb(pid: int) -> int:
  """Returns the peak resident memory of a process, MB (Linux)."""
  status = pathlib.Path(f"/proc/{pid}/status").read_text()
  return round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6)


if __name__ == "__main__":
  main()
