"""The README of a folder of exported files: what they are, and the lines that run each of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_TEXT = """\
# {backbone}, {num_classes} classes

A semantic segmentation network, exported by gcn_flax {version} after {step} steps of training on {dataset}.

| file | for | agrees with the network |
|---|---|---|
{rows}
| `encoder.safetensors` | pretrained weights of another network: the encoder alone, with torchvision's names | |
| `network.json` | classes, palette, normalisation and padding for programs, and this table | |

Agreement: share of equal labels, and the largest difference of a probability, on {pictures}.
{agreement_note}
All take RGB pictures, uint8 `[B, H, W, 3]`, {sides}, and give labels uint8 `[B, H, W]` and
probabilities float32 `[B, H, W, {num_classes}]`; normalisation is inside. Labels are indices of these classes:

{classes}

Padding changes predictions near the edges. Pad pictures as in training, then cut the padding off:

```python
import numpy as np
from PIL import Image

image = np.asarray(Image.open("photo.jpg").convert("RGB"))
height, width = image.shape[:2]
{padding}
images = np.full((1, rows, columns, 3), {pixel}, np.uint8)
images[0, :height, :width] = image
```

## ONNX

```python
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx")
labels, probabilities = session.run(None, {{"images": images}})
labels = labels[0, :height, :width]
```

## StableHLO

```python
import jax
from jax import export

with open("network.stablehlo", "rb") as file:
  network = jax.jit(export.deserialize(bytearray(file.read())).call)
labels, probabilities = network(images)
labels = np.asarray(labels)[0, :height, :width]
```

## PyTorch

```python
import network

labels = network.load().predict(image)  # Pads by itself.
```

Or `python network.py photo.jpg labels.png`.

## gcn_flax

```python
import gcn_flax

labels = gcn_flax.load("network.safetensors").predict("photo.jpg")  # Pads by itself.
```
"""

_FORMATS = {
  "network.onnx": "ONNX Runtime, TensorRT, OpenVINO and the like",
  "network.stablehlo": "JAX on CPUs, GPUs and TPUs, and compilers that read StableHLO",
  "network.py": "PyTorch: the network of `network.safetensors` in one file",
  "network.safetensors": "gcn_flax and `network.py`: all weights",
}
_RULE = """\
# Each side is rounded up to a multiple of 32, above 512 to one of 128.
rows, columns = (-(-side // step) * step for side in (height, width) for step in [32 if side <= 512 else 128])"""
_NOTE = """
The network was trained and is evaluated in bfloat16. The ONNX and PyTorch files compute in float32, so labels of pixels
with two nearly equal probabilities differ.
"""


def render(description: Mapping[str, Any], size: Sequence[int] = ()) -> str:
  """Returns the README as Markdown.

  Args:
    description: content of `network.json`.
    size: (H, W) of the input of the StableHLO and ONNX files; () for any.
  """
  fixed = tuple(size) or tuple(description["canvas"])
  agreement = description["agreement"]
  return _TEXT.format(
    backbone=description["backbone"],
    num_classes=len(description["classes"]),
    version=description["producer"].split()[-1],
    step=description["step"],
    dataset=description["dataset"],
    rows="\n".join(f"| `{name}` | {use} | {_figures(agreement.get(name))} |" for name, use in _FORMATS.items()),
    pictures=description["pictures"],
    agreement_note=_NOTE if description["dtype"] != "float32" else "",
    sides=f"{size[0]} x {size[1]} (shrink or cut larger ones)" if size else "whose sides are multiples of 32",
    classes="\n".join(f"{index}. {name}" for index, name in enumerate(map(_escape, description["classes"]))),
    padding=f"rows, columns = {fixed[0]}, {fixed[1]}" if fixed else _RULE,
    pixel=tuple(description["padding_pixel"]),
  )


def _figures(agreement: Mapping[str, float] | None) -> str:
  if not agreement:
    return ""
  if "not_checked" in agreement:
    return agreement["not_checked"]
  return f"{100 * agreement['equal_labels']:.3f} %, {agreement['largest_difference']:.1e}"


def _escape(name: str) -> str:
  return json.dumps(name, ensure_ascii=False)[1:-1]
