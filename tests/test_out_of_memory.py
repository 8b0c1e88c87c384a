"""Advice for devices that run out of memory."""

import re
import shlex
import types

import pytest

from configs import camvid, silhouettes
from gcn_flax import command_line, commands, config_checks, out_of_memory

FRACTION, BFLOAT16 = "XLA_CLIENT_MEM_FRACTION=0.95", "--config.model.dtype=bfloat16"
REMAT, SMALLER = "--config.model.remat=True", "a smaller --config.batch_size or --config.data.crop_size"
CROP, MORE_MEMORY = "a smaller --config.data.crop_size", "devices with more memory"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  for name in out_of_memory._SHARE_VARIABLES:
    monkeypatch.delenv(name, raising=False)
  return monkeypatch


def devices(platform, count=1):
  return [types.SimpleNamespace(platform=platform, process_index=0)] * count


def config_with(**fields):
  config = camvid.get_config()
  config.update_from_flattened_dict({"batch_size": 16} | {name.replace("__", "."): fields[name] for name in fields})
  return config


def advice(platform="gpu", count=1, mode="train", is_begun=False, **fields):
  return out_of_memory.advice(config_with(**fields), mode, devices(platform, count), is_begun)


def accumulate(steps):
  return f"--config.accumulate_steps={steps} "


# (fields, devices, begun, parts of the advice in their order, parts that it must lack)
CASES = {
  "default": ({}, 1, False, (FRACTION, BFLOAT16, REMAT, accumulate(2), SMALLER, "more devices"), ()),
  "mixed precision": ({"model__dtype": "bfloat16"}, 1, False, (FRACTION, REMAT), (BFLOAT16,)),
  "checkpointing is on": ({"model__remat": True}, 1, False, (BFLOAT16, accumulate(2)), (REMAT,)),
  "accumulation is exact": ({"model__norm": "frozen"}, 1, False, (accumulate(2), "the same result", REMAT), ()),
  "hard pixels of fewer images": (
    {"model__norm": "frozen", "loss__ohem_fraction": 0.5},
    1,
    False,
    (REMAT, accumulate(2), "OHEM"),
    ("the same result",),
  ),
  "more micro-batches": ({"accumulate_steps": 4}, 1, False, (REMAT, accumulate(8)), ()),
  "a micro-batch that divides": ({"batch_size": 9}, 1, False, (accumulate(3),), ()),
  "one image at once": ({"accumulate_steps": 16}, 1, False, (REMAT, CROP, MORE_MEMORY), ("accumulate", "more devices")),
  "one image on each of 16": ({}, 16, False, (REMAT, CROP, MORE_MEMORY), ("accumulate", "batch_size", "more devices")),
  "a run that goes on": ({}, 1, True, (FRACTION, REMAT, "more devices", "a new workdir"), (BFLOAT16, "accumulate")),
}


@pytest.mark.parametrize("case", CASES)
def test_fixes_for_training_on_gpus(case):
  fields, count, is_begun, parts, lacking = CASES[case]
  text = advice(count=count, is_begun=is_begun, **fields)
  places = [text.index(part) for part in parts]
  assert places == sorted(places) and not any(part in text for part in lacking), text
  assert "If it is evaluation that fails: a sliding window, for instance --config.eval.tile='(512, 512)'" in text
  assert "nvidia-smi" in text and "\n" not in text


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_only_gpus_have_a_share_of_memory_to_raise(platform):
  assert FRACTION not in advice(platform) and "nvidia-smi" not in advice(platform)


@pytest.mark.parametrize("name", out_of_memory._SHARE_VARIABLES)
def test_a_share_that_was_set_is_not_suggested(name, environment):
  environment.setenv(name, "0.5")
  assert FRACTION not in advice()


def test_fixes_for_evaluation():
  text = advice("cpu", 2, "eval", eval__batch_size=8)
  assert (
    text
    == "Try in this order: a sliding window, for instance --config.eval.tile='(512, 512)'; --config.eval.batch_size=2."
  )
  assert "a smaller --config.eval.tile." in advice("cpu", 8, "eval", eval__tile=(512, 512))
  classifier = silhouettes.get_config()
  classifier.eval.batch_size = 1
  assert out_of_memory.inference_fixes(classifier, 1) == [MORE_MEMORY]


@pytest.mark.parametrize("fields", [{}, {"accumulate_steps": 4}, {"batch_size": 9}, {"model__norm": "frozen"}], ids=str)
def test_what_is_suggested_can_be_typed(fields):
  for text in re.findall(r"--config\.[\w.]+=(?:'[^']*'|[\w.]*\w)", advice(**fields)):
    config, _ = command_line.parse(["gcn_flax", "--config=configs/camvid.py", "--workdir=W", *shlex.split(text)])
    if "batch_size" in fields:
      config.batch_size = fields["batch_size"]
    config_checks.check_config(config)
    config_checks.check_devices(config, 1, 1)


def test_the_error_is_one_line_with_the_advice(tmp_path, capsys):
  _, given = command_line.parse(["gcn_flax", "--config=configs/camvid.py", f"--workdir={tmp_path}"])
  error = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
  assert commands._report(error, given) == 1
  printed = capsys.readouterr().err
  assert printed.count("\n") == 1 and "(out of memory. Try in this order: " in printed and REMAT in printed
