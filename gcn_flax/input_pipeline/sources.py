"""Opens one split of a prepared data set by name."""

from gcn_flax.input_pipeline.datasets import open_source

__all__ = ["open_source"]
