"""The server answers requests of all kinds, writes nothing, and is reached from this machine alone."""

import base64
import concurrent.futures
import contextlib
import io
import json
import re
import signal
import socket
import struct
import time

import numpy as np
import pytest
from PIL import Image

import gcn_flax
from gcn_flax import command_line, main
from gcn_flax.serving import app
from gcn_flax.serving import server as server_lib
from gcn_flax.workdir.workdir import Workdir
from tests.serving.processes import encoded, png, serving, snapshot, until
from tests.test_main import ROOT

JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def model(run):
  return gcn_flax.load(run)


def test_health(server):
  status, headers, body = server.ask("health")
  found = json.loads(body)
  assert (status, headers["content-type"]) == (200, "application/json")
  assert (found["status"], found["step"], found["waiting"]) == ("ok", 2, 0)
  assert found["classes"][:2] == ["sky", "building"] and found["network"] == "resnet_tiny, gcn, k = 3"


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (33, 70)], ids=str)
def test_the_label_map_is_that_of_the_network(server, model, size):
  data = png(*size)
  expected = model.predict(np.asarray(Image.open(io.BytesIO(data))))
  status, headers, body = server.ask("predict", data)
  label = Image.open(io.BytesIO(body))
  assert (status, headers["content-type"], label.mode) == (200, "image/png", "P")
  np.testing.assert_array_equal(np.asarray(label), expected)
  assert label.getpalette()[:33] == [value for colour in model.palette for value in colour]

  found = json.loads(server.ask("predict", data, **JSON)[2])
  assert base64.b64decode(found["label_map"]) == body and (found["height"], found["width"]) == size
  assert [each["name"] for each in found["classes"]] == list(model.classes)
  assert [each["color"] for each in found["classes"]] == list(map(list, model.palette))
  counts = np.bincount(expected.ravel(), minlength=11)
  assert [each["pixels"] for each in found["classes"]] == counts.tolist()
  np.testing.assert_allclose([each["share"] for each in found["classes"]], counts / expected.size)


def test_a_turned_photo_is_predicted_as_viewers_show_it(server):
  exif = Image.Exif()
  exif[0x0112] = 6
  data = encoded(Image.new("RGB", (96, 64)), "JPEG", exif=exif)
  assert Image.open(io.BytesIO(server.ask("predict", data)[2])).size == (64, 96)


def test_samples_are_those_of_the_workdir(server, run):
  paths = json.loads(server.ask("samples")[2])
  assert paths == [f"samples/{number}" for number in range(1, 6)]
  for number, path in enumerate(paths, 1):
    status, headers, body = server.ask(path)
    assert (status, headers["content-type"]) == (200, "image/png")
    assert body == (run / "samples" / f"{number}.png").read_bytes()


def tiff_of_many_pages(count):
  """A TIFF of 1 x 1 pixels on each page."""
  tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1))
  data = bytearray(b"II*\0" + struct.pack("<I", 8))
  for page in range(count):
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    following = len(data) + 2 + len(entries) + 4 if page < count - 1 else 0
    data += struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
  return bytes(data)


JPEG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
FRAMES = [Image.new("L", (8, 8), grey) for grey in (0, 255)]
REFUSED = {
  "empty": (b"", 400, "the body is empty. Send the bytes of a picture"),
  "text": (b"no picture", 422, "the picture is damaged or truncated, or not an 8-bit grey or colour picture"),
  "zeros": (bytes(10_000), 422, "is damaged or truncated, or not"),
  "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "is damaged or truncated, or not"),
  "cut": (JPEG[:-400], 422, "the picture is damaged or truncated (image file is truncated"),
  "flipped": (bytes([*png(64, 64)[:60], 1, 2, 3, *png(64, 64)[63:]]), 422, "the picture is damaged or truncated ("),
  "deep": (encoded(Image.new("I;16", (8, 8), 999), "PNG"), 422, "the picture has 16 bits per channel"),
  "frames": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), 422, "holds 2 pages or frames"),
  "pages": (tiff_of_many_pages(5000), 422, "holds 100 or more pages or frames"),
  "pixels": (encoded(Image.new("L", (8192, 2049)), "PNG"), 413, "the picture is 2049 x 8192, and may have 16,777,216"),
  "side": (encoded(Image.new("1", (8193, 1)), "PNG"), 413, "the picture is 1 x 8193"),
  "bomb": (encoded(Image.new("1", (40_000, 40_000)), "PNG"), 422, "the picture has more than 268,435,456 pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_picture_is_refused_in_one_line(server, case):
  data, expected, message = REFUSED[case]
  status, headers, body = server.ask("predict", data)
  assert (status, headers["content-type"]) == (expected, "application/json")
  (error,) = json.loads(body).values()
  assert message in error and "\n" not in error and "Traceback" not in error


def test_a_form_is_told_how_to_send_a_picture(server):
  status, _, body = server.ask("predict", b"--x", content_type="multipart/form-data; boundary=x")
  assert status == 415 and "curl --data-binary @photo.jpg" in json.loads(body)["error"]


@pytest.mark.parametrize("path", [
  "nowhere", "samples/0", "samples/6", "samples/1.png", "samples/-1", "samples/..%2f..%2fconfig.json", "../config.json",
  "%2e%2e/%2e%2e/etc/passwd", "static/page.html", "predict/",
])  # fmt: skip
def test_no_path_reaches_a_file(server, path):
  status, _, body = server.ask(path)
  assert status in (404, 405) and json.loads(body)["error"].endswith(
    "Use GET /, GET /health, GET /samples and POST /predict."
  )


def talk(server, *parts):
  """Sends bytes, and returns what comes back until the server closes or nothing more comes for half a second."""
  received = b""
  with (
    contextlib.suppress(TimeoutError, ConnectionError),
    socket.create_connection((server.host, server.port), timeout=0.5) as connection,
  ):
    for part in parts:
      connection.sendall(part)
    while chunk := connection.recv(2**16):
      received += chunk
  return received.decode()


def head(server, length, path="/predict"):
  return f"POST {path} HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_fifty_megabytes_are_refused_before_they_are_sent(server):
  answer = talk(server, head(server, 50_000_000))
  assert answer.startswith("HTTP/1.1 413 ") and "more than 32 MiB. Make it smaller." in answer
  start = head(server, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
  chunk = b"%x\r\n%s\r\n" % (2**20, bytes(2**20))
  assert talk(server, start, *[chunk] * 33).startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ["predict", "nowhere"])
def test_a_client_that_sends_fifty_megabytes_all_the_same_reads_the_answer(server, path):
  """Urllib, as many clients, only reads when it has sent everything."""
  status, _, body = server.ask(path, bytes(50_000_000))
  assert status == {"predict": 413, "nowhere": 404}[path] and json.loads(body)["error"]


def test_a_client_that_hangs_up_gives_its_place_back(server):
  for _ in range(20):
    with socket.create_connection((server.host, server.port)) as connection:
      connection.sendall(head(server, 1000) + bytes(500))
      until(lambda: server.health()["waiting"] == 1)
    until(lambda: server.health()["waiting"] == 0)
  assert server.ask("predict", png(64, 96))[0] == 200
  until(lambda: server.log.count("POST /predict: the client hung up, ") == 20)


def test_two_hundred_requests_at_once(server):
  """Sixteen find a place, the others are told when to come again; whoever comes again is served."""
  data, expected = png(64, 96), server.ask("predict", png(64, 96))[2]
  refused = []

  def patient(_):
    while True:
      status, headers, body = server.ask("predict", data)
      if status == 200:
        return body
      assert status == 503 and "pictures are waiting already. Try again in" in json.loads(body)["error"]
      refused.append(int(headers["Retry-After"]))
      time.sleep(0.05)

  with concurrent.futures.ThreadPoolExecutor(200) as pool:
    answers = list(pool.map(patient, range(200)))
  assert answers == [expected] * 200 and len(refused) > 0 and set(refused) <= set(range(1, 61))
  assert server.health()["waiting"] == 0


@pytest.mark.parametrize("headers, expected", [
  ({"Host": "evil.example"}, 403),
  ({"Host": "127.0.0.1.evil.example:80"}, 403),
  ({"Host": "[::1"}, 403),
  ({"Host": "localhost:5"}, 200),
  ({"Host": "[::1]:5"}, 200),
  ({"Origin": "http://evil.example"}, 403),
  ({"Origin": "null"}, 403),
  ({"Host": "localhost:8000", "Origin": "http://localhost:8001"}, 403),
  ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
])  # fmt: skip
def test_pages_of_other_sites_are_refused(server, headers, expected):
  status, _, body = server.ask("predict", png(64, 96), **headers)
  assert status == expected
  if expected == 403:
    assert re.match("(Host|Origin): .* is ", json.loads(body)["error"])


def test_answers_are_for_the_page_of_this_server_alone(server):
  for path in ("", "health", "samples/1", "nowhere"):
    headers = server.ask(path)[1]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in headers if name.lower().startswith("access-control")] and not headers["server"]
  policy = server.ask("")[1]["Content-Security-Policy"]
  assert "default-src 'none'; connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
  assert "unsafe" not in policy and "http" not in policy


def test_only_the_loopback_address_is_bound(server):
  """By default. Whatever listens on all addresses is reached by 127.0.0.2, too."""
  assert server.host == "127.0.0.1"
  with socket.socket() as connection, pytest.raises(ConnectionRefusedError):
    connection.connect(("127.0.0.2", server.port))
  with server_lib.listen("0.0.0.0", 0) as listener, socket.socket() as connection:
    connection.connect(("127.0.0.2", listener.getsockname()[1]))


def test_the_log_has_a_line_for_each_request_and_nothing_that_drives_a_terminal(server):
  before = len(server.log)
  talk(server, f"GET /%1b%5b31m%0aa{'b' * 200} HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
  server.ask("health")
  until(lambda: server.log[before:].count("\n") == 2)
  first, second = server.log[before:].splitlines()
  assert re.fullmatch(r"\d\d:\d\d:\d\d GET /\\x1b\[31m ab{80,99}: 404, \d\.\d\d s", first)
  assert re.fullmatch(r"\d\d:\d\d:\d\d GET /health: 200, \d\.\d\d s", second)


def test_rubbish_in_place_of_http(server):
  for rubbish in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\0" * 100_000, b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000):
    talk(server, rubbish)
  assert server.ask("health")[0] == 200


def test_nothing_is_written(run, tmp_path):
  """By a server that has predicted and refused; it compiles, too, for there is no cache of programs."""
  before = snapshot(run)
  with serving(run, tmp_path, JAX_COMPILATION_CACHE_DIR="", TMPDIR=str(tmp_path / "empty")) as server:
    for path in ("", "health", "samples", "samples/1", "nowhere"):
      server.ask(path)
    assert server.ask("predict", png(40, 50))[0] == 200
    assert server.ask("predict", b"no picture")[0] == 422
    assert server.ask("predict", bytes(40_000_000))[0] == 413
    server.stop(signal.SIGTERM)
  assert snapshot(run) == before
  assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "log"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_it_with_one_line(run, tmp_path, number):
  with serving(run, tmp_path) as server:
    server.ask("health")
    with socket.create_connection((server.host, server.port)) as connection:
      connection.sendall(head(server, 1000))  # Of a client that never goes on.
      until(lambda: server.health()["waiting"] == 1)
      connection.close()
      status, printed, log = server.stop(number)
  assert (status, printed) == (0, "stopped.\n")
  assert "Traceback" not in log and all(re.match(r"\d\d:\d\d:\d\d (GET|POST) ", line) for line in log.splitlines())


@pytest.mark.slow
def test_an_exported_network_is_served(run, model, tmp_path):
  assert main.main(["gcn_flax", "--mode=export", f"--workdir={run}"]) == 0
  with serving(run / "export" / "network.safetensors", tmp_path) as server:
    label = Image.open(io.BytesIO(server.ask("predict", png(64, 96))[2]))
    np.testing.assert_array_equal(label, model.predict(np.asarray(Image.open(io.BytesIO(png(64, 96))))))
    assert json.loads(server.ask("samples")[2]) == []


def test_the_python_client_of_the_documentation_works(server, tmp_path, monkeypatch, capsys):
  (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "SERVE.md").read_text(), re.MULTILINE | re.DOTALL)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "photo.jpg").write_bytes(JPEG)
  exec(code.replace("http://127.0.0.1:8000/", server.address), {})
  assert "sky " in capsys.readouterr().out
  assert (tmp_path / "labels.png").read_bytes() == server.ask("predict", JPEG)[2]


def test_a_port_in_use_is_named_before_slow_work(tmp_path, run, capsys, monkeypatch):
  monkeypatch.setattr(server_lib, "load_trained", None)
  with server_lib.listen("127.0.0.1", 0) as taken:
    port = taken.getsockname()[1]
    assert main.main(["gcn_flax", "--mode=serve", f"--workdir={run}", f"--port={port}"]) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error == f"error: --port={port}: is in use. Use another one, or --port=0 for any that is free."


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "", "a" * 300])
def test_a_host_that_is_not_this_machine_is_named(host):
  with pytest.raises(ValueError, match=r"^--host=.*: (is no address of this machine|names nothing)\. Use --host=127"):
    server_lib.listen(host, 0)


@pytest.mark.parametrize("flag", ["--port=70000", "--port=-1", "--port=http"])
def test_a_port_that_is_none_is_named(flag, run):
  with pytest.raises(command_line.UserError, match=f"^{flag}: "):
    command_line.parse(["gcn_flax", "--mode=serve", f"--workdir={run}", flag])


@pytest.mark.parametrize("host, warns", [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_host_that_others_can_reach_causes_a_warning(run, host, warns, monkeypatch, caplog):
  config, _ = command_line.parse(["gcn_flax", "--mode=serve", f"--workdir={run}"])
  names = []
  monkeypatch.setattr(server_lib, "serve", lambda service, listener, allowed: names.extend(allowed))
  with caplog.at_level("WARNING", "gcn_flax"):
    server_lib.run(config, Workdir(run), host, 0)
  assert ("there is no password" in caplog.text) == warns and ("127.0.0.1" in names) != warns


def test_only_so_many_compiled_programs_are_kept(model, monkeypatch):
  monkeypatch.setattr(app, "_MAX_PROGRAMS", 2)
  service, compiled = app.Service(model), model.trained.setup.eval_step
  compiled.clear_cache()
  found = []
  for width in (32, 64, 64, 96, 32):
    service._predict(png(32, width))
    found.append(compiled._cache_size())
  assert found == [1, 2, 2, 1, 2]


def test_a_classifier_is_refused(class_config, tmp_path):
  with pytest.raises(ValueError, match="serve is for classes of pixels"):
    server_lib.run(class_config, Workdir(tmp_path))
