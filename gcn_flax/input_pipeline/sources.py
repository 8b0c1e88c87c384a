"""The public address of `open_source`, which opens one split of a prepared data set."""

from gcn_flax.input_pipeline.datasets import open_source

__all__ = ["open_source"]
