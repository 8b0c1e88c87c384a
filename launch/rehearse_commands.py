"""Commands of docs/REPRODUCE.md, and the flags that make them small enough for a rehearsal.

A block of commands in the page is preceded by a line `<!-- rehearse: STAGE -->`, or `<!-- not rehearsed: REASON -->`.
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping

_BLOCK = re.compile(r"^<!-- (rehearse|not rehearsed): (.+?) -->\n```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
TOTAL_STEPS = 10
# In the place of the page's commands of this stage, which download weights: the same kind of file, with the weights of
# a small encoder that was trained on generated pictures.
STAND_INS = {
  "encoder": """\
python -m data.prepare --dataset=class_folder --manual_dir=silhouettes --data_dir=DATA
python -m gcn_flax.main --config=configs/silhouettes.py:resnet_tiny --config.data.data_dir=DATA --workdir=runs/encoder
python -m gcn_flax --mode=export --workdir=runs/encoder
cp runs/encoder/export/encoder.safetensors resnet152.safetensors
"""
}
_INTERVALS = (
  f"--config.total_steps={TOTAL_STEPS} --config.eval_every_steps={TOTAL_STEPS} --config.checkpoint_every_steps=4 "
  "--config.log_every_steps=2 --config.data.num_threads=2 --config.eval.num_pictures=2 "
)
# Kind of command -> flags appended to it.
SMALL_FLAGS = {
  "prepare": "--partial",
  "classifier": f"{_INTERVALS} --config.optimizer.warmup_steps=2 --config.eval.batch_size=8",
  "train": f"{_INTERVALS} --config.optimizer.warmup_steps=2 --config.model.backbone=resnet_tiny",
  "modern": "--config.batch_size=2 --config.eval.batch_size=1 --config.model.dtype=float32",
  "search": "--config.eval.crf.search_images=1",
  "large scales": '--config.eval.scales="(0.5,1.0)"',  # Images of 1024 x 2048.
  "large CRF": "--config.eval.crf.iterations=1",
}


@dataclasses.dataclass(frozen=True)
class Step:
  """A command of the page on one line, and the name of its stage."""

  stage: str
  command: str

  @property
  def flags(self) -> dict[str, str]:
    """Flags of the command, without dashes -> value; the last one counts."""
    words = shlex.split(self.command)
    return dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))

  @property
  def mode(self) -> str:
    """`train`, `eval` or another `--mode`; for other programs their name, such as `data.prepare` or `tar`."""
    words = shlex.split(self.command)
    if words[0] != "python":
      return words[0]
    return self.flags.get("mode", "train") if words[2] in ("gcn_flax", "gcn_flax.main") else words[2]

  def small(self) -> str:
    """Returns the flags, on one line, that a rehearsal appends to the command; "" for none."""
    return " ".join(SMALL_FLAGS[kind] for kind in self._kinds())

  def _kinds(self) -> list[str]:
    recipe, large = self.flags.get("config", ""), "cityscapes" in self.flags.get("workdir", "")
    if self.mode == "train":
      is_classifier = recipe.startswith("configs/silhouettes.py")
      return ["classifier" if is_classifier else "train", *(["modern"] if recipe.endswith(":modern") else [])]
    if self.mode == "search_crf":
      return ["search"]
    kinds = ["prepare"] if self.mode == "data.prepare" else []
    kinds += ["large scales"] if large and "config.eval.scales" in self.flags else []
    return kinds + (["large CRF"] if large and "config.eval.crf.iterations" in self.flags else [])


def read_steps(page: str) -> list[Step]:
  """Returns the commands of the rehearsed blocks of a page, with those of `STAND_INS` in their place.

  Raises ValueError if the page has blocks without a mark, or no commands to rehearse.
  """
  blocks = _BLOCK.findall(page)
  unmarked = len(re.findall(r"^```", page, re.MULTILINE)) // 2 - len(blocks)
  if unmarked:
    raise ValueError(
      f"the page has {unmarked} unmarked blocks of commands. Put <!-- rehearse: STAGE --> or "
      "<!-- not rehearsed: REASON --> on the line above each."
    )
  steps = [
    Step(stage, line)
    for mark, stage, text in blocks
    if mark == "rehearse"
    for line in command_lines(STAND_INS.get(stage, text))
  ]
  if not steps:
    raise ValueError("the page has no commands to rehearse.")
  return steps


def command_lines(text: str) -> list[str]:
  """Returns the commands of a block, each on one line, without comments."""
  lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
  return [line for line in (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines) if line]


def with_folders(command: str, folders: Mapping[str, str]) -> str:
  """Returns a command with placeholders, such as DATA, replaced by folders, quoted for a shell."""
  names = "|".join(folders)
  return re.sub(rf"\b({names})\b", lambda found: shlex.quote(folders[found[1]]), command)
