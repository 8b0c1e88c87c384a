"""The PyTorch DataLoader that benchmarks/input.py compares with, augmented as in torchvision's reference training."""

import pathlib
import random
from collections.abc import Iterator

import torch
from PIL import Image

try:
  import torchvision  # noqa: F401
except RuntimeError:  # PyPI's CUDA wheel beside PyTorch for the CPU lacks operators that no transform here needs.
  for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.transforms import InterpolationMode, RandomCrop
from torchvision.transforms import functional as F

from benchmarks import input_files, script
from gcn_flax.labels import IGNORE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's.
PREFETCH = 2  # Batches a worker prepares in advance; PyTorch's default.


class Examples(torch.utils.data.Dataset):
  """Training files, decoded and augmented with Pillow as in torchvision's references/segmentation.

  Args:
    root: folder written by `input_files.write`.
    crop: side of the square crops in pixels.
    scales: (smallest, largest) random scale of the short side.
    normalized: True for normalized float32 images and int64 labels, as in the reference; otherwise uint8.
  """

  def __init__(self, root: pathlib.Path, crop: int, scales: tuple[float, float], normalized: bool):
    self.images, self.masks = input_files.train_files(root)
    self.crop, self.scales, self.normalized = crop, scales, normalized

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = Image.open(self.images[index]).convert("RGB"), Image.open(self.masks[index])
    short = random.randint(*(int(scale * min(image.size)) for scale in self.scales))
    image, label = F.resize(image, [short]), F.resize(label, [short], InterpolationMode.NEAREST)
    if random.random() < 0.5:
      image, label = F.hflip(image), F.hflip(label)
    image, label = self._pad(image, 0), self._pad(label, IGNORE)
    window = RandomCrop.get_params(image, (self.crop, self.crop))
    image, label = F.pil_to_tensor(F.crop(image, *window)), F.pil_to_tensor(F.crop(label, *window))[0]
    if not self.normalized:
      return image, label
    return F.normalize(F.convert_image_dtype(image, torch.float32), MEAN, STD), label.to(torch.int64)

  def _pad(self, picture: Image.Image, fill: int) -> Image.Image:
    right, below = (max(0, self.crop - side) for side in picture.size)
    return F.pad(picture, [0, 0, right, below], fill=fill) if right or below else picture


def batches(examples: Examples, batch_size: int) -> Iterator[list[torch.Tensor]]:
  """Yields random batches without end, from one worker process per core; each worker uses one thread."""
  sampler = torch.utils.data.RandomSampler(examples, replacement=True, num_samples=2**40)
  loader = torch.utils.data.DataLoader(
    examples,
    batch_size,
    sampler=sampler,
    num_workers=script.num_cores(),
    prefetch_factor=PREFETCH,
    persistent_workers=True,
    multiprocessing_context="forkserver",  # A process with threads, such as this one, must not be forked.
  )
  return iter(loader)
