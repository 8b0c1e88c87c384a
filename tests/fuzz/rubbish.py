"""Kinds of rubbish that a disk, a copy or an editor leaves in place of a file."""

import json
import os
import pathlib
import random
import shutil

_OTHER_TYPES = ([], {}, "x", 5, None, True, -1.5, [[]], {"x": {}}, 1e300)


def _half(path, before, rng):
  path.write_bytes(before[: len(before) // 2])


def _noise(path, before, rng):
  path.write_bytes(rng.randbytes(max(64, len(before))))


def _flipped(path, before, rng):
  """Damages a few bytes, so that most of a format's checks pass."""
  content = bytearray(before)
  for _ in range(min(len(content), 3)):
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(bytes(content))


def _other_types(path, before, rng):
  """Drops some keys of JSON objects, and gives most values another type; other files become an object."""
  try:
    lines = [json.loads(line) for line in before.decode().splitlines()]
  except ValueError:
    lines = []
  try:
    lines = lines or [json.loads(before)]
  except ValueError:
    lines = [{"strange": [1]}]
  path.write_text("".join(f"{json.dumps(_retyped(line, rng))}\n" for line in lines))


def _retyped(value, rng):
  if isinstance(value, dict) and value:
    kept = [(name, item) for name, item in value.items() if rng.random() < 0.9]
    return {name: _retyped(item, rng) if rng.random() < 0.5 else rng.choice(_OTHER_TYPES) for name, item in kept}
  return rng.choice([other for other in _OTHER_TYPES if type(other) is not type(value)])


def _folder(path, before, rng):
  path.mkdir()
  (path / "note.txt").write_text("a folder in place of a file")


def _unreadable(path, before, rng):
  path.write_bytes(before)
  path.chmod(0)


def _one_of(*contents: bytes):
  return lambda path, before, rng: path.write_bytes(rng.choice(contents))


def _odd_text(path, before, rng):
  """Adds a byte order mark, zero bytes, or a byte that is not UTF-8."""
  middle = len(before) // 2
  damages = (b"\xef\xbb\xbf" + before, *(before[:middle] + odd + before[middle:] for odd in (b"\0\0\0\0", b"\xe9\xff")))
  path.write_bytes(rng.choice(damages))


def _link(path, before, rng):
  path.symlink_to(rng.choice((path, path.with_name("nowhere"))))


# Name -> `(path, content before, rng)`, called when nothing is at the path any more.
KINDS = {
  "missing": lambda path, before, rng: None,
  "empty": _one_of(b""),
  "half": _half,
  "noise": _noise,
  "flipped": _flipped,
  "other JSON": _one_of(b"null", b"[]", b"5", b"{}", b'""', b"true", b"[[]]"),
  "types": _other_types,
  "deep": _one_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 100_000),
  "huge number": _one_of(b'{"step": 1e400, "2": NaN, "best": ' + b"9" * 5000 + b"}", b'{"2": 1e400}', b'{"2": NaN}'),
  "odd text": _odd_text,
  "folder": _folder,
  "link": _link,
}
if os.geteuid():  # The superuser reads every file.
  KINDS["unreadable"] = _unreadable
_OF_CONTENT = ("half", "flipped", "types", "odd text", "folder", "unreadable")


def kinds_for(path: pathlib.Path) -> list[str]:
  """Returns the kinds that differ for what is at a path: a folder has no content to damage."""
  return [kind for kind in KINDS if not (path.is_dir() and kind in _OF_CONTENT)]


def put(kind: str, path: pathlib.Path, rng: random.Random) -> None:
  """Replaces a file or folder by rubbish."""
  before = b"" if path.is_dir() else path.read_bytes()
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()
  KINDS[kind](path, before, rng)
