"""Public ImageNet weights of the encoders: their addresses, and the commands that fetch them. Nothing is fetched here.

The files of torchvision are those of its `IMAGENET1K_V1`; timm's `tv_in1k` are the same weights as safetensors, which
need no PyTorch.
"""

_TORCHVISION = {
  "resnet18": "resnet18-f37072fd.pth",
  "resnet34": "resnet34-b627a593.pth",
  "resnet50": "resnet50-0676ba61.pth",
  "resnet101": "resnet101-63fe2227.pth",
  "resnet152": "resnet152-394f9c45.pth",
}
BACKBONES = tuple(_TORCHVISION)  # The encoders that there are public weights for.


def torchvision_command(backbone: str) -> str:
  """Returns the command that fetches torchvision's file, under its own name."""
  return f"curl -LO https://download.pytorch.org/models/{_TORCHVISION[backbone]}"


def timm_command(backbone: str) -> str:
  """Returns the command that fetches timm's file from Hugging Face as `BACKBONE.safetensors`."""
  address = f"https://huggingface.co/timm/{backbone}.tv_in1k/resolve/main/model.safetensors"
  return f"curl -L -o {backbone}.safetensors {address}"


def advice(backbone: str) -> str:
  """Returns the sentences for an error where the weights of an encoder are missing."""
  if backbone not in BACKBONES:
    return (
      f"There are no public weights of {backbone}: train them, see docs/WEIGHTS.md, or use another "
      f"config.model.backbone, for instance {BACKBONES[0]}."
    )
  return (
    f"Get ImageNet weights by: {timm_command(backbone)} and use --config.model.pretrained={backbone}.safetensors; or, "
    f"if PyTorch is installed, by: {torchvision_command(backbone)}"
  )
