"""Nested dicts of settings."""

from gcn_flax import nested


def test_flatten_gives_dotted_names():
  tree = {"model": {"head": "gcn", "crf": {"iterations": 0}}, "scales": [1.0], "empty": {}}
  assert nested.flatten(tree) == {"model.head": "gcn", "model.crf.iterations": 0, "scales": [1.0]}
  assert list(nested.flatten(tree, "config")) == ["config.model.head", "config.model.crf.iterations", "config.scales"]


def test_merge_completes_with_defaults():
  defaults = {"model": {"head": "gcn", "norm": "sync"}, "seed": 0}
  assert nested.merge(defaults, {"model": {"norm": "frozen", "new": 1}}) == {
    "model": {"head": "gcn", "norm": "frozen", "new": 1}, "seed": 0,
  }  # fmt: skip
  assert defaults == {"model": {"head": "gcn", "norm": "sync"}, "seed": 0}
