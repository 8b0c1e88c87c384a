"""Networks at https addresses: downloaded once, checked by their SHA-256, and used like local ones."""

import errno
import hashlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import gcn_flax
from gcn_flax import command_line, download, export, main
from gcn_flax.workdir.network_paths import find_network
from gcn_flax.workdir.stored_config import stored_config
from gcn_flax.workdir.trained import load_trained
from gcn_flax.workdir.workdir import Workdir
from tests.https_server import Answer, serve

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several reads.
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
  with serve(tmp_path_factory.mktemp("server")) as server:
    yield server


@pytest.fixture
def server(running, monkeypatch):
  """The server with one file, whose certificate is trusted."""
  monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
  monkeypatch.setenv("no_proxy", "*")
  running.answers = {"/network.safetensors": Answer(CONTENT)}
  running.asked.clear()
  return running


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "gcn_flax"


def at(server, path="network.safetensors", digest=DIGEST):
  return f"{server.address}/{path}#sha256={digest}"


def test_a_file_is_downloaded_once(server, cache):
  path = download.download(at(server))
  assert path == cache / f"{DIGEST}.safetensors" and path.read_bytes() == CONTENT
  assert download.download(at(server, digest=DIGEST.upper())) == path
  assert server.asked == ["/network.safetensors"] and list(cache.iterdir()) == [path]


def test_a_changed_copy_is_downloaded_again(server):
  path = download.download(at(server))
  path.write_bytes(CONTENT[:-1] + b"x")
  assert download.download(at(server)).read_bytes() == CONTENT and len(server.asked) == 2


def test_https_redirects_are_followed(server):
  server.answers["/moved"] = Answer(status=302, headers={"Location": "/network.safetensors"})
  assert download.download(at(server, "moved")).read_bytes() == CONTENT


def test_progress_is_shown(server, monkeypatch, capsys):
  monkeypatch.setattr(download, "_SILENT_SECONDS", 0)
  download.download(at(server))
  assert re.search(r"network\.safetensors: 100%.*5\.12M/5\.12M", capsys.readouterr().err)


@pytest.mark.parametrize("given", ["", "relative"])
def test_the_cache_is_in_the_home_folder_by_default(server, monkeypatch, tmp_path, given):
  monkeypatch.setenv("XDG_CACHE_HOME", given)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  assert download.download(at(server)).parent == tmp_path / "home/.cache/gcn_flax"


@pytest.mark.parametrize(
  "address, message",
  [
    (
      f"http://host/a.safetensors#sha256={DIGEST}",
      f"is not encrypted. Use https://host/a.safetensors#sha256={DIGEST}.",
    ),
    ("https://host/a.safetensors", "has no digest to check the file by. Append #sha256=DIGEST, the SHA-256 that its"),
    ("https://host/a.safetensors#md5=" + DIGEST, "must end in #sha256=DIGEST. Use 64 hexadecimal digits, as sha256sum"),
    ("https://host/a.safetensors#sha256=" + DIGEST[1:], "must end in #sha256=DIGEST."),
    ("https://host/a.safetensors#sha256=" + "g" * 64, "must end in #sha256=DIGEST."),
  ],
)
def test_an_address_without_https_or_digest_is_refused(address, message, cache):
  with pytest.raises(ValueError, match=f"^{re.escape(f'{address}: {message}')}"):
    gcn_flax.load(address)
  assert not cache.exists()


@pytest.mark.parametrize(
  "address",
  [
    "https://",
    "https://[",
    "https://host:port/a",
    "https://127.0.0.1/\x00",
    "https://127.0.0.1/a b",
    "https://127.0.0.1/ä",
  ],
)
def test_an_address_that_makes_no_sense_is_one_error(address):
  with pytest.raises(ValueError, match=f"^{re.escape(address)}.*: (cannot be downloaded|is no address) "):
    download.download(f"{address}#sha256={DIGEST}")


FAULTS = {
  "missing": (Answer(status=404), "the server answers 404, Not Found. Check the address."),
  "cut": (Answer(CONTENT, claimed=len(CONTENT) + 1), "the connection ended after 5,120,000 of 5,120,001 bytes."),
  "large": (Answer(CONTENT + b"x"), "is larger than 5,120,000 bytes, which no network is."),
  "claimed to be large": (Answer(CONTENT, claimed=10**12), "is larger than 5,120,000 bytes"),
  "other": (Answer(b"other"), f"has SHA-256 {hashlib.sha256(b'other').hexdigest()}, not {DIGEST} as its address says."),
  "a page": (Answer(b"<html>", headers={"Content-Type": "text/html"}), "It is a web page: use the address of the file"),
  "empty": (Answer(), f"not {DIGEST} as its address says."),
  "slow": (Answer(CONTENT, delay=1.0), "cannot be downloaded (The read operation timed out)."),
  "http": (
    Answer(status=302, headers={"Location": "http://127.0.0.1/network.safetensors"}),
    "redirects to http://127.0.0.1/network.safetensors, which is not encrypted.",
  ),
  "file": (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "the server answers 302"),
  "loop": (Answer(status=302, headers={"Location": "/file"}), "the server answers 302"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_that_fails_is_one_error_and_leaves_nothing(server, cache, monkeypatch, fault):
  monkeypatch.setattr(download, "_MAX_BYTES", len(CONTENT) + (fault == "cut"))
  if fault == "slow":
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
  server.answers["/file"], message = FAULTS[fault]
  with pytest.raises(ValueError) as error:
    download.download(at(server, "file"))
  assert str(error.value).startswith(f"{server.address}/file: ") and message in str(error.value)
  assert "\n" not in str(error.value) and not list(cache.iterdir())


def test_a_failed_download_keeps_the_copies_of_others(server, cache):
  kept = download.download(at(server))
  with pytest.raises(ValueError, match=f"has SHA-256 {DIGEST}, not {'0' * 64}"):
    download.download(at(server, digest="0" * 64))
  assert list(cache.iterdir()) == [kept]


def test_a_certificate_that_is_not_trusted_and_a_server_that_is_gone(server, monkeypatch):
  monkeypatch.delenv("SSL_CERT_FILE")
  with pytest.raises(ValueError, match="cannot be downloaded .*certificate verify failed"):
    download.download(at(server))
  with pytest.raises(ValueError, match="cannot be downloaded .*refused"):
    download.download(f"https://127.0.0.1:1/network.safetensors#sha256={DIGEST}")


def test_a_cache_that_cannot_be_written(server, cache, monkeypatch):
  def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(download, "_receive", fail)
    with pytest.raises(ValueError, match=f"^{cache}: the disk is full. Make room, or set XDG_CACHE_HOME.$"):
      download.download(at(server))
  assert not list(cache.iterdir())
  cache.rmdir()
  cache.write_text("in the way")
  with pytest.raises(ValueError, match=f"^{cache}: not a folder."):
    download.download(at(server))


@pytest.fixture(scope="module")
def network(_trained_run, tmp_path_factory):
  """An exported network."""
  run = shutil.copytree(_trained_run, tmp_path_factory.mktemp("exported") / "run")
  config = stored_config(run)
  return list(export.write_weights(config, Workdir(run), load_trained(config, Workdir(run), "best")))[1]


def test_a_network_at_an_address_is_used_like_a_local_one(server, network, tmp_path):
  """In Python, and on the command line by the same text."""
  content = network.read_bytes()
  server.answers["/network.safetensors"] = Answer(content)
  address = at(server, digest=hashlib.sha256(content).hexdigest())
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
  Image.fromarray(image).save(tmp_path / "photo.png")
  expected = gcn_flax.load(network).predict(image)
  np.testing.assert_array_equal(gcn_flax.load(address).predict(image), expected)
  flags = [f"--images={tmp_path}/photo.png", f"--output={tmp_path}/out"]
  assert main.main(["gcn_flax", "--mode=predict", f"--workdir={address}", *flags]) == 0
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/photo.png")), expected)
  assert len(server.asked) == 1
  with pytest.raises(ValueError, match="an exported network has no checkpoints"):
    gcn_flax.load(address, checkpoint="last")


@pytest.mark.parametrize("mode", ["predict", "serve"])
def test_the_command_line_names_what_is_wrong_with_an_address(mode, capsys):
  assert main.main(["gcn_flax", f"--mode={mode}", "--workdir=https://host/a.safetensors"]) == 1
  assert capsys.readouterr().err.startswith("error: https://host/a.safetensors: has no digest to check the file by.")


@pytest.mark.parametrize("mode", ["eval", "train", "export"])
def test_what_writes_into_its_workdir_takes_no_address(mode, server):
  with pytest.raises(command_line.UserError, match="unsupported storage. Use a local path or gs://BUCKET"):
    command_line.parse(["gcn_flax", f"--mode={mode}", f"--workdir={at(server)}"])
  assert not server.asked


def test_a_folder_with_a_network_is_that_network_unless_it_is_a_run(network, trained_run, tmp_path):
  folder = tmp_path / "release"
  folder.mkdir()
  assert find_network(folder) == folder
  shutil.copy(network, folder)
  assert find_network(str(folder)) == find_network(folder / "network.safetensors") == folder / "network.safetensors"
  assert gcn_flax.load(folder).classes == gcn_flax.load(network).classes
  config, given = command_line.parse(["gcn_flax", "--mode=serve", f"--workdir={folder}"])
  assert given.workdir == config.init_from == str(folder / "network.safetensors") and given.checkpoint == "0"
  with pytest.raises(command_line.UserError, match=f"network.safetensors: is a file.*init_from={folder}/network.safe"):
    command_line.parse(["gcn_flax", "--mode=eval", f"--workdir={folder}"])
  shutil.copy(network, trained_run)
  assert find_network(trained_run) == trained_run
