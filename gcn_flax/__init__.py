"""Semantic segmentation with large kernels: GCN (Peng et al., CVPR 2017) in JAX and Flax."""

__version__ = "0.1.0"
__all__ = ["GCN", "load"]


def __getattr__(name: str):
  """Imports public names on first use, so that `import gcn_flax` does not wait for JAX (PEP 562)."""
  if name == "GCN":
    from gcn_flax.models.gcn import GCN

    return GCN
  if name == "load":
    from gcn_flax.segmenter import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
