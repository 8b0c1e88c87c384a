"""A released network: a folder that is loaded as it is, with a card whose figures are those of the run."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

import gcn_flax
from gcn_flax.config import get_config
from launch import model_card, release

FLAGS = ("--license=apache-2.0", "--data_license=Drawn for tests.", "--intended_use=Tests, nothing else.")
FILES = {"network.safetensors", "config.json", "metrics.json", "README.md"}


def write(workdir, folder, *flags):
  return release.main([str(workdir), str(folder), *FLAGS, *flags])


@pytest.fixture(scope="module")
def released(_trained_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("released") / "street"
  assert write(_trained_run, folder) == 0
  return folder


@pytest.fixture(scope="module")
def card(released):
  """The metadata of a card and its text."""
  _, front_matter, text = (released / "README.md").read_text().split("---\n", 2)
  return yaml.safe_load(front_matter), text


@pytest.fixture(scope="module")
def scores(_trained_run):
  return json.loads((_trained_run / "eval_validation.json").read_text())


def test_the_folder_is_the_network_of_the_run(released, _trained_run):
  assert {path.name for path in released.iterdir()} == FILES
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
  run, model = gcn_flax.load(_trained_run), gcn_flax.load(released)
  np.testing.assert_array_equal(model.predict(image), run.predict(image))
  assert (model.classes, model.palette) == (run.classes, run.palette)
  settings = json.loads((released / "config.json").read_text())
  assert settings == json.loads((_trained_run / "config.json").read_text())


def test_figures_are_those_of_the_evaluation(released, card, scores):
  metadata, text = card
  assert json.loads((released / "metrics.json").read_text()) == {"validation": scores}
  assert metadata["license"] == "apache-2.0" and metadata["pipeline_tag"] == "image-segmentation"
  (entry,) = metadata["model-index"]
  (result,) = entry["results"]
  assert entry["name"] == "street" and result["dataset"] == {"type": "camvid", "name": "camvid", "split": "validation"}
  found = {metric["type"]: metric["value"] for metric in result["metrics"]}
  assert found["mean_iou"] == round(scores["mean_iou"], 4) and len(found) == 7 and "loss" not in found
  rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
  assert ["validation", *(f"{100 * scores[name]:.1f}" for name in found)] in rows
  for index, (name, iou) in enumerate(scores["iou"].items()):
    assert [str(index), name, f"{100 * iou:.1f}"] in rows


def test_the_card_says_where_the_network_comes_from(card, _trained_run):
  _, text = card
  record = json.loads((_trained_run / "run.json").read_text())
  for part in (
    "Tests, nothing else.", "Licence of the data: Drawn for tests.", record["command"], record["commit"].rstrip("+"),
    f"{record['processor']['cores']} cores of {record['processor']['model']}", record["starts"][0]["time"][:10],
    f"jax {record['versions']['jax']}", "- trained on camvid, train: 12 images", "- camvid is not complete: train 12",
    "- evaluated on camvid, validation: 5 images", "Step 2 of 2. Prediction: whole images.", "| random |",
    "resnet_tiny, GCN, k = 3, BR",
  ):  # fmt: skip
    assert part in text, part


def test_the_lines_of_the_card_run(released, card, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Image.new("RGB", (50, 40)).save("photo.jpg")
  (block,) = re.findall(r"```python\n(.*?)```", card[1], re.DOTALL)
  digest = hashlib.sha256((released / "network.safetensors").read_bytes()).hexdigest()
  names, address = {}, f"https://HOST/PATH/network.safetensors#sha256={digest}"
  assert address in block
  exec(block.replace(address, str(released)), names)
  assert names["labels"].shape == (40, 50)


def test_it_prints_how_the_network_is_loaded(released, _trained_run, tmp_path, capsys):
  """A run gives the same digest again, in a folder that has files of its owner, too."""
  folder = tmp_path / "clone"
  (folder / ".git").mkdir(parents=True)
  for _ in range(2):
    assert write(_trained_run, folder, "--checkpoint=2") == 0
    printed = capsys.readouterr().out
    digest = hashlib.sha256((released / "network.safetensors").read_bytes()).hexdigest()
    assert f'gcn_flax.load("{folder}")' in printed and f'network.safetensors#sha256={digest}")' in printed
  assert {path.name for path in folder.iterdir()} == {*FILES, ".git"}


def test_a_licence_of_ones_own(_trained_run, tmp_path, capsys):
  assert write(_trained_run, tmp_path, "--license=other") == 1
  assert f"--license=other: {tmp_path}/LICENSE not found. Put the text" in capsys.readouterr().err
  (tmp_path / "LICENSE").write_text("Use it well.")
  assert write(_trained_run, tmp_path, "--license=other") == 0
  text = (tmp_path / "README.md").read_text()
  metadata = yaml.safe_load(text.split("---\n")[1])
  assert (metadata["license"], metadata["license_link"]) == ("other", "LICENSE")
  assert "Weights: [LICENSE](LICENSE)" in text


def remove(name):
  return lambda workdir: (workdir / name).unlink()


def rescore(change):
  def act(workdir):
    path = workdir / "eval_validation.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))

  return act


def other_split(workdir):
  shutil.copy(workdir / "eval_validation.json", workdir / "eval_test.json")
  found = json.loads((workdir / "eval_test.json").read_text())
  (workdir / "eval_test.json").write_text(json.dumps(found | {"step": 1}))


FAULTS = {
  "no record": (remove("run.json"), "run.json: not found, and the card is made from it."),
  "no scores": (
    remove("eval_validation.json"),
    "eval_validation.json: not found. Evaluate that checkpoint: python -m gcn_flax --mode=eval --workdir=",
  ),
  "another step": (rescore(lambda found: found.update(step=1)), "is of step 1, not of 2, which is released."),
  "another split": (other_split, "eval_test.json: is of step 1, not of 2"),
  "damaged": (rescore(lambda found: found.update(step="two")), "eval_validation.json: damaged"),
  "TTA": (
    rescore(lambda found: found["eval"].update(flip=True)),
    "is of whole images; test-time augmentation: horizontal flip, but the run's settings say whole images. Evaluate",
  ),
  "canvas": (rescore(lambda found: found.update(eval_size_of_training=[])), "is of another canvas than the run's."),
  "no checkpoint": (lambda workdir: shutil.rmtree(workdir / "checkpoints"), "has no checkpoint"),
  "no run": (shutil.rmtree, "is no workdir"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_without_its_scores_is_refused(trained_run, tmp_path, capsys, fault):
  change, message = FAULTS[fault]
  change(trained_run)
  assert write(trained_run, tmp_path / "out") == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ") and message in error and error.count("\n") == 1
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--license=Apache 2.0"], "--license='Apache 2.0': is no identifier. Use one of https://huggingface.co/docs"),
    (["--data_license= "], "--data_license=' ': is empty."),
    (["--intended_use="], "--intended_use='': is empty."),
    (["--checkpoint=newest"], "--checkpoint=newest: must be best, last or a step"),
  ],
)
def test_wrong_arguments_are_named(_trained_run, tmp_path, capsys, flags, message):
  assert write(_trained_run, tmp_path / "out", *flags) == 1
  assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_files_of_others_are_kept(trained_run, tmp_path, capsys):
  before = (trained_run / "config.json").read_bytes()
  assert write(trained_run, trained_run) == 1
  assert "config.json: was not written by this command. Remove it, or use another folder." in capsys.readouterr().err
  assert (trained_run / "config.json").read_bytes() == before
  (tmp_path / "README.md").write_text("# My project\n")
  assert write(trained_run, tmp_path) == 1
  assert (tmp_path / "README.md").read_text() == "# My project\n"
  assert write(trained_run, "gs://bucket/release") == 1
  assert "gs://bucket/release: is in a bucket. Write the release to a local folder" in capsys.readouterr().err
  (tmp_path / "file").write_text("")
  assert write(trained_run, tmp_path / "file") == 1
  assert "file: not a folder." in capsys.readouterr().err


def test_a_classifier_is_refused(class_config, tmp_path, capsys):
  (tmp_path / "run/checkpoints/2/default").mkdir(parents=True)
  (tmp_path / "run/config.json").write_text(class_config.to_json())
  (tmp_path / "run/run.json").write_text('{"command": "x"}')
  assert write(tmp_path / "run", tmp_path / "out") == 1
  assert "is for classes of pixels" in capsys.readouterr().err


@pytest.fixture
def example():
  """A release of a network with odd names, three evaluations and two splits, on GPUs of two hosts."""
  config = get_config()
  config.data.train_mix, config.data.eval_split = (("coco_voc", "train", 1), ("voc_segmentation", "train", 2)), "val"
  config.model.pretrained = "resnet50.safetensors"
  evaluation = {
    "eval": json.loads(config.eval.to_json()),
    "mean_iou": 0.5,
    "loss": 2.0,
    "iou": {"a|b": 0.25, "c": None},
  }
  return {
    "name": "x: y", "license": "mit", "data_license": "None: {}", "intended_use": "Any.\n\nReally any.",
    "address": "https://a/b", "config": config, "classes": ("a|b", "c"), "step": 4,
    "record": {"command": "python x", "commit": "c0ffee+", "devices": {"kind": "NVIDIA H100", "count": 16, "hosts": 2}},
    "evaluations": {2: 0.1, 4: 0.3, 6: 0.2},
    "scores": {"test": evaluation | {"mean_iou": 0.75, "num_images": 1449}, "val": evaluation},
  }  # fmt: skip


def test_a_card_of_several_splits_and_hosts(example):
  text = model_card.render(model_card.Release(**example))
  metadata = yaml.safe_load(text.split("---\n")[1])
  results = metadata["model-index"][0]["results"]
  assert [(each["dataset"]["split"], each["metrics"][0]["value"]) for each in results] == [("test", 0.75), ("val", 0.5)]
  for part in (
    "# x: y\n", "Really any.", "None: {}", "| test | 75.0 |", "| val | 50.0 |", "| label | class | test | val |",
    "| 0 | a\\|b | 25.0 | 25.0 |", "| 1 | c | - | - |", "- trained on coco_voc, train\n- trained on voc_segmentation",
    ": 1,449 images", "the best of 3 that training evaluated on val", "| 16 x NVIDIA H100 on 2 hosts |",
    "c0ffee, with changes", "| begun | unknown |", "| resnet50.safetensors |",
  ):  # fmt: skip
    assert part in text, part


def test_a_checkpoint_that_is_not_the_best_is_not_called_so(example):
  assert ", one of 3 that training" in model_card.render(model_card.Release(**example | {"step": 6}))
  assert "that training" not in model_card.render(model_card.Release(**example | {"evaluations": {4: 0.3}}))


@pytest.mark.parametrize(
  "kind, cores, expected",
  [("", 0, "unknown"), ("cpu", 0, "1 x cpu"), ("cpu", 2, "2 cores of X"), ("H100", 2, "1 x H100; 2 cores of X")],
)
def test_hardware(example, kind, cores, expected):
  record = {"command": "python x"}
  record |= {"devices": {"kind": kind, "count": 1, "hosts": 1}} if kind else {}
  record |= {"processor": {"model": "X", "cores": cores}} if cores else {}
  text = model_card.render(model_card.Release(**example | {"record": record}))
  assert f"| hardware | {expected} |" in text
