"""Text from outside, such as names of files and classes, as terminals, logs and pages can show it."""

import re
import sys

# Control characters, separators of lines, overrides of the direction of writing, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
  r"""Returns `str(text)` with everything that cannot be shown escaped.

  These are control characters, which could drive a terminal (`\x1b`), and bytes of a file name that are not UTF-8
  (`\xff`), which cannot be encoded. Letters of all scripts stay.
  """
  return _UNPRINTABLE.sub(_escape, str(text))


def one_line(text: object) -> str:
  """Returns `str(text)` as printable text, with one space for each run of white space."""
  return printable(" ".join(str(text).split()))


def _escape(found: re.Match) -> str:
  code = ord(found[0])
  if 0xDC80 <= code <= 0xDCFF:  # A byte that Python could not decode.
    return f"\\x{code - 0xDC00:02x}"
  return found[0].encode("unicode_escape").decode()


def print_error(text: object) -> str:
  """Prints `error: ...` in one line on stderr, and returns that line."""
  line = f"error: {one_line(text)}"
  print(line, file=sys.stderr, flush=True)
  return line
