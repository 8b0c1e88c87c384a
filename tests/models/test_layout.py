import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.models import layout
from gcn_flax.models.layout import FeatureMap, Layout
from tests.models.comparison import random_array

BLOCKS = [(2, 2), (1, 4), (3, 1), (2, 3)]


def test_space_to_depth_orders_a_block_row_by_row():
  x = np.arange(2 * 4 * 6).reshape(1, 4, 6, 2)
  found = layout.space_to_depth(x, (2, 3))
  assert found.shape == (1, 2, 2, 12)
  np.testing.assert_array_equal(found[0, 1, 1], x[0, 2:4, 3:6].reshape(-1))


@pytest.mark.parametrize("block", BLOCKS)
def test_depth_to_space_inverts_space_to_depth(block):
  x = random_array(2, 12, 12, 5)
  np.testing.assert_array_equal(layout.depth_to_space(layout.space_to_depth(x, block), block), x)


@pytest.mark.parametrize("block", [(2, 2), (1, 1), (3, 2)])
def test_labels_are_in_the_order_of_the_planes(block):
  labels = np.random.default_rng(0).integers(0, 256, (2, 12, 18)).astype(np.uint8)
  logits = FeatureMap.of(jnp.asarray(labels, jnp.float32)[..., None]).to(Layout(1, block))
  found = layout.label_planes(labels, block)
  np.testing.assert_array_equal(np.asarray(found, np.float32), logits.planes()[:, :, :, 0])


LAYOUTS = {
  "plain": Layout(6),
  "padded": Layout(6, width=8),
  "blocks": Layout(6, (2, 2)),
  "padded blocks": Layout(6, (2, 2), 30),
  "other blocks": Layout(6, (1, 3)),
}


@pytest.mark.parametrize("after", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("before", LAYOUTS.values(), ids=LAYOUTS)
def test_a_map_keeps_its_values_in_every_layout(before, after):
  x = random_array(2, 8, 12, 6)
  found = FeatureMap.of(x).to(before).to(after)
  assert found.layout == after and found.array.shape[-1] == after.width
  np.testing.assert_array_equal(found.plain(), x)
  assert not np.asarray(found.array[..., after.used :]).any()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_argmax_ignores_padding_and_takes_the_first_of_equal_values(layout):
  x = -1 - np.abs(random_array(2, 8, 12, 6))  # Zeros of the padding would win.
  found = FeatureMap.of(x).to(layout).argmax()
  np.testing.assert_array_equal(found, np.argmax(x, -1))
  assert found.dtype == jnp.uint8
  assert not np.asarray(FeatureMap.of(np.zeros_like(x)).to(layout).argmax()).any()


def test_a_map_stays_a_map():
  x = FeatureMap.of(random_array(1, 4, 4, 3))
  assert FeatureMap.of(x) is x and x.to(Layout(3)) is x


def test_maps_of_different_layouts_are_not_added():
  x = FeatureMap.of(random_array(1, 4, 4, 3))
  np.testing.assert_array_equal((x + x).array, 2 * x.array)
  with pytest.raises(ValueError, match="different layouts"):
    x + x.to(Layout(3, (2, 2)))


def test_a_vector_is_tiled_over_a_block_and_padded():
  np.testing.assert_array_equal(Layout(3, (2, 2), 16).tile(np.float32([1, 2, 3])), [1, 2, 3] * 4 + [0] * 4)
