"""Predictions take turns, and whoever hangs up loses the turn."""

import asyncio
import concurrent.futures
import json
import signal
import socket
import subprocess
import threading

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from gcn_flax.serving import uploads
from gcn_flax.serving.turns import Turns, unless_hung_up
from tests.serving.processes import GATED, png, serving, until


@pytest.fixture(scope="module")
def gated(run, tmp_path_factory):
  """A server whose predictions wait while a file exists."""
  folder = tmp_path_factory.mktemp("gated")
  gate, fault = folder / "gate", folder / "fault"
  with serving(run, folder, script=("-c", GATED, str(gate), str(fault))) as server:
    server.gate, server.fault = gate, fault
    yield server


@pytest.fixture
def closed(gated):
  """A server whose gate is closed."""
  gated.gate.touch()
  yield gated
  gated.gate.unlink(missing_ok=True)
  until(lambda: gated.health()["waiting"] == 0)


def send(server, data):
  """Sends a picture, and returns the connection without reading from it."""
  connection = socket.create_connection((server.host, server.port))
  connection.sendall(f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: {len(data)}\r\n\r\n".encode())
  connection.sendall(data)
  return connection


def test_a_client_that_hangs_up_while_it_waits_is_dropped(closed):
  """And its picture is never predicted: no program for 480 x 32 is compiled."""
  with send(closed, png(64, 96)):
    until(lambda: closed.health()["waiting"] == 1)
    with send(closed, png(480, 32)):
      until(lambda: closed.health()["waiting"] == 2)
    until(lambda: closed.health()["waiting"] == 1)
    closed.gate.unlink()
    assert closed.ask("predict", png(96, 64))[0] == 200
  assert "images of 96 x 64" in closed.log and "images of 480 x 32" not in closed.log


def test_a_client_that_hangs_up_in_its_turn_holds_nobody_up(closed):
  with send(closed, png(64, 96)):
    until(lambda: closed.health()["waiting"] == 1)
  closed.gate.unlink()
  assert closed.ask("predict", png(64, 96))[0] == 200
  until(lambda: closed.health()["waiting"] == 0)
  until(lambda: "POST /predict: the client hung up" in closed.log)


def test_a_full_queue_says_when_to_come_again(closed):
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    answers = [pool.submit(closed.ask, "predict", png(64, 96)) for _ in range(16)]
    until(lambda: closed.health()["waiting"] == 16)
    status, headers, body = closed.ask("predict", png(64, 96))
    assert status == 503 and 1 <= int(headers["Retry-After"]) <= 60
    assert json.loads(body)["error"].startswith("16 pictures are waiting already. Try again in ")
    assert closed.ask("")[0] == 200
    closed.gate.unlink()
    assert {answer.result()[0] for answer in answers} == {200}


@pytest.mark.parametrize("fault, status, message", [
  ("secret\nof /home/me", 500, "RuntimeError on the server; its log says more. Try another picture."),
  ("RESOURCE_EXHAUSTED: out", 413, "the picture is 64 x 96, too large for the memory here. Send a smaller one"),
])  # fmt: skip
def test_a_fault_is_answered_in_one_line_and_logged(gated, fault, status, message):
  gated.fault.write_text(fault)
  try:
    found, _, body = gated.ask("predict", png(64, 96))
  finally:
    gated.fault.unlink()
  assert found == status and json.loads(body)["error"].startswith(message) and "secret" not in body.decode()
  if status == 500:
    until(lambda: "error: RuntimeError: secret of /home/me (<string>:" in gated.log)
    assert "Traceback" not in gated.log
  assert gated.ask("predict", png(64, 96))[0] == 200


@pytest.mark.slow
def test_a_server_that_stops_lets_the_running_prediction_end(run, tmp_path):
  gate = tmp_path / "gate"
  gate.touch()
  with serving(run, tmp_path, script=("-c", GATED, str(gate), str(tmp_path / "fault"))) as server:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      answer = pool.submit(server.ask, "predict", png(64, 96))
      until(lambda: server.health()["waiting"] == 1)
      server.process.send_signal(signal.SIGTERM)
      with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(0.5)
      gate.unlink()
      assert answer.result()[0] == 200
    assert server.process.wait(30) == 0


def request(*messages, headers=()):
  """A request whose messages come in turn, and then nothing more."""
  waiting = list(messages)

  async def receive():
    return waiting.pop(0) if waiting else await asyncio.Event().wait()

  return Request({"type": "http", "method": "POST", "headers": list(headers)}, receive)


def part(size, more=True):
  return {"type": "http.request", "body": bytes(size), "more_body": more}


def test_a_slow_body_is_not_waited_for(monkeypatch):
  monkeypatch.setattr(uploads, "_MAX_SECONDS", 0.05)
  with pytest.raises(HTTPException, match="408: the picture did not arrive within 0.05 s"):
    asyncio.run(uploads.read_body(request(part(5))))


def test_no_more_of_a_body_is_read_than_is_accepted():
  parts = [part(2**20) for _ in range(40)]
  with pytest.raises(HTTPException, match="413"):
    asyncio.run(uploads.read_body(request(*parts)))
  with pytest.raises(HTTPException, match="413"):
    asyncio.run(uploads.read_body(request(headers=[(b"content-length", b"33554433")])))
  assert len(asyncio.run(uploads.read_body(request(part(2**25, more=False))))) == 2**25


def test_turns_come_in_order_and_one_at_a_time():
  order, running = [], []

  def work(number):
    running.append(number)
    assert len(running) == 1
    order.append(number)
    running.remove(number)
    return number

  async def run():
    turns = Turns(50)
    return await asyncio.gather(*(turns.run(work, number) for number in range(50)))

  assert asyncio.run(run()) == order == list(range(50))


def test_a_hang_up_ends_the_wait_but_not_the_function_that_runs():
  done = threading.Event()

  async def run():
    turns, release = Turns(2), threading.Event()
    first = asyncio.create_task(unless_hung_up(request({"type": "http.disconnect"}), turns.run(release.wait, 10)))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(turns.run(done.set))
    await asyncio.sleep(0.05)
    assert not first.done() and not done.is_set()  # The thread is still taken.
    release.set()
    await second
    with pytest.raises(ClientDisconnect):
      await first
    turns.close()

  asyncio.run(run())
  assert done.is_set()
