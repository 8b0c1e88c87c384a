"""The one reader of JSON files: it returns what has the form, and names the file and the fix otherwise."""

import pytest

from gcn_flax import json_files

RUBBISH = {
  "empty": b"",
  "blank": b" \n",
  "cut": b'{"step": 1, "na',
  "binary": bytes(range(256)),
  "not UTF-8": b'{"step": 1, "name": "\xff"}',
  "a zero": b'{"step"\0: 1}',
  "null": b"null",
  "a list": b"[]",
  "a number": b"5",
  "no keys": b"{}",
  "other types": b'{"step": "1"}',
  "a bool": b'{"step": true}',
  "infinite": b'{"step": 1, "score": 1e400}',
  "not a number": b'{"step": 1, "score": NaN}',
  "beyond floats": b'{"step": 1, "score": 1' + 400 * b"0" + b"}",
  "too many digits": b'{"step": 1' + 5000 * b"0" + b"}",
  "nested": 100_000 * b"[",
}
FORM = {"step": int, "score?": float, "name?": str}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_named_with_the_fix(name, tmp_path):
  path = tmp_path / "state.json"
  path.write_bytes(RUBBISH[name])
  with pytest.raises(ValueError, match=r"state.json: damaged \(.+\). Put it back.") as caught:
    json_files.read(path, FORM, "Put it back.")
  assert "\n" not in str(caught.value)


def test_json_that_is_nested_too_deeply_is_called_so():
  with pytest.raises(ValueError, match="x: damaged .it is nested too deeply.. Put it back."):
    json_files.parse(RUBBISH["nested"], FORM, "x", "Put it back.")


def test_a_folder_and_a_missing_file(tmp_path):
  with pytest.raises(ValueError, match="damaged .it is a folder.. Put"):
    json_files.read(tmp_path, FORM, "Put it back.")
  with pytest.raises(FileNotFoundError):
    json_files.read(tmp_path / "none", FORM, "")


def test_a_byte_order_mark_is_read(tmp_path):
  """Some editors write one."""
  path = tmp_path / "state.json"
  path.write_bytes(b'\xef\xbb\xbf{"step": 1, "more": []}')
  assert json_files.read(path, FORM, "") == {"step": 1, "more": []}


@pytest.mark.parametrize(
  "form, text",
  [
    ([str], '["a", "b"]'), ((int, int), "[1, 2]"), ({str: [int]}, '{"a": [], "b": [1]}'), (object, "true"),
    ({"a": bool, "b?": {}}, '{"a": false}'), (float, "1"), (range(256), "255"), (float | None, "null"),
  ],
)  # fmt: skip
def test_what_has_the_form(form, text):
  json_files.parse(text, form, "x", "")


@pytest.mark.parametrize(
  "form, text, difference",
  [
    ([str], '["a", 1]', r"its content\[1\] is not a text"), ((int, int), "[1]", "not a list of the right length"),
    ({"a": {"b": int}}, '{"a": {}}', "'b' is missing"), (range(256), "256", "not a whole number in its range"),
    ({str: float}, '{"a": true}', "'a' is not a finite number"), (float | None, '"1"', "is not a finite number"),
    ({"a": bool}, '{"a": 1}', "'a' is not true or false"),
  ],
)  # fmt: skip
def test_the_first_difference_is_named(form, text, difference):
  with pytest.raises(ValueError, match=rf"^x: damaged \(.*{difference}"):
    json_files.parse(text, form, "x", "")
