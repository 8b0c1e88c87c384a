"""Names of the rivals in tables, in a file that imports neither JAX nor PyTorch."""

TITLES = {
  "ours": "ours",
  "ours_plain": "ours, reference",
  "ours_fused": "ours, BR fused",
  "torch_eager": "torch eager",
  "torch_channels_last": "torch channels_last",
  "torch_compile": "torch.compile, channels_last",
}
