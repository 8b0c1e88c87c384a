"""Downloads networks: from https addresses that carry the SHA-256 of their file, once, into a cache."""

import errno
import hashlib
import http.client
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import BinaryIO

import tqdm

import gcn_flax
from gcn_flax import files
from gcn_flax.printable import one_line

_DIGEST = "#sha256="  # Before the digest at the end of an address, as in pip's.
_TIMEOUT = 30  # Seconds without an answer.
_MAX_BYTES = 2**32  # The largest network of this package has less than a tenth of it.
_CHUNK_BYTES = 2**20
_SILENT_SECONDS = 1  # Quicker downloads show no progress.


def is_address(name: object) -> bool:
  """Returns True for the address of a web server, also for one that `download` rejects."""
  return re.match("https?://", str(name), re.IGNORECASE) is not None


def download(address: str) -> pathlib.Path:
  """Returns the local copy of the file at an address; downloads it unless the cache has it already.

  The copy is `gcn_flax/DIGEST.safetensors` in `$XDG_CACHE_HOME`, by default `~/.cache`. Its digest is checked at each
  use, and a copy that was changed is downloaded again. Proxies are those of the environment (`HTTPS_PROXY`).

  Args:
    address: `https://HOST/PATH#sha256=DIGEST` with the SHA-256 of the file as 64 hexadecimal digits.

  Raises:
    ValueError: for an address without https or digest, if the file cannot be downloaded, is larger than 4 GiB or has
      another digest, and if it cannot be stored. Nothing of it is kept then.
  """
  url, digest = _parse(address)
  copy = _cache() / f"{digest}.safetensors"
  if not copy.is_file() or sha256(copy) != digest:
    _fetch(url, digest, copy)
  return copy


def sha256(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, 64 hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(address: str) -> tuple[str, str]:
  """Returns an address without its digest, and the digest. Raises ValueError for one that cannot be used."""
  url, _, fragment = address.partition("#")
  try:
    scheme = urllib.parse.urlsplit(url).scheme
  except ValueError as error:
    raise ValueError(f"{address}: is no address ({error}). Use https://HOST/PATH{_DIGEST}DIGEST.") from error
  if scheme != "https":
    raise ValueError(f"{address}: is not encrypted. Use https://{address.partition('://')[2]}.")
  if not fragment:
    raise ValueError(
      f"{address}: has no digest to check the file by. Append {_DIGEST}DIGEST, the SHA-256 that its publisher gives."
    )
  digest = fragment.lower()
  if not re.fullmatch(f"{_DIGEST[1:]}[0-9a-f]{{64}}", digest):
    raise ValueError(f"{address}: must end in {_DIGEST}DIGEST. Use 64 hexadecimal digits, as sha256sum prints them.")
  return url, digest.partition("=")[2]


def _cache() -> pathlib.Path:
  given = os.environ.get("XDG_CACHE_HOME", "")
  # Relative paths are to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/.
  return pathlib.Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache"), "gcn_flax")


def _fetch(url: str, digest: str, copy: pathlib.Path) -> None:
  """Downloads a file of a known digest. Raises ValueError, and leaves nothing behind, if that fails."""
  files.check_writable(copy.parent)
  try:
    copy.parent.mkdir(parents=True, exist_ok=True)
    with _open(url) as response, files.replacing(copy) as file:
      found = _receive(response, file, url)
      if found != digest:
        is_page = response.headers.get_content_type() == "text/html"
        fix = "It is a web page: use the address of the file itself" if is_page else "Ask its publisher which is right"
        raise ValueError(f"{url}: has SHA-256 {found}, not {digest} as its address says. {fix}. Nothing was kept.")
  except urllib.error.HTTPError as error:
    error.close()
    raise ValueError(f"{url}: the server answers {error.code}, {one_line(error.reason)}. Check the address.") from error
  except (OSError, http.client.HTTPException, UnicodeError) as error:
    if getattr(error, "errno", None) == errno.ENOSPC:
      raise ValueError(f"{copy.parent}: the disk is full. Make room, or set XDG_CACHE_HOME.") from error
    reason = one_line(getattr(error, "reason", None) or error)
    raise ValueError(f"{url}: cannot be downloaded ({reason}). Check the address and the connection.") from error


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
  """Follows redirects to https alone."""

  def redirect_request(self, request, file, code, message, headers, url):
    if urllib.parse.urlsplit(url).scheme != "https":
      raise ValueError(f"{request.full_url}: redirects to {url}, which is not encrypted. Use another address.")
    return super().redirect_request(request, file, code, message, headers, url)


def _open(url: str) -> http.client.HTTPResponse:
  request = urllib.request.Request(url, headers={"User-Agent": f"gcn_flax/{gcn_flax.__version__}"})
  return urllib.request.build_opener(_HttpsOnly).open(request, timeout=_TIMEOUT)


def _receive(response: http.client.HTTPResponse, file: BinaryIO, url: str) -> str:
  """Copies the content of an answer to a file; returns its SHA-256. Raises ValueError if it is too large or cut."""
  total, received, digest = response.length, 0, hashlib.sha256()
  name = url.rpartition("/")[2]
  with tqdm.tqdm(total=total, unit="B", unit_scale=True, desc=one_line(name), delay=_SILENT_SECONDS) as progress:
    while chunk := response.read(_CHUNK_BYTES):
      received += len(chunk)
      if max(received, total or 0) > _MAX_BYTES:
        raise ValueError(f"{url}: is larger than {_MAX_BYTES:,} bytes, which no network is. Check the address.")
      digest.update(chunk)
      file.write(chunk)
      progress.update(len(chunk))
  if total is not None and received < total:
    raise ValueError(f"{url}: the connection ended after {received:,} of {total:,} bytes. Try again.")
  return digest.hexdigest()
