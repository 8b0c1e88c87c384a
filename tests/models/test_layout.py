import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_flax.models import layout
from gcn_flax.models.layout import Layout, ScoreMap
from gcn_flax.models.ops import PLAIN
from gcn_flax.training import losses
from tests.models.comparison import assert_close, quick_jit, random_array

TOLERANCE = 1e-5
BLOCKS = [(2, 2), (1, 4), (3, 1), (2, 3)]


def same_conv(x, kernel, strides=(1, 1), padding=None):
  padding = padding or tuple((side // 2,) * 2 for side in kernel.shape[:2])
  return PLAIN.conv(x, kernel, strides, padding)


def assert_same_with_gradients(ours, theirs, *inputs):
  """Results and the gradients of a weighted sum of them, with respect to every input."""
  weights = random_array(*jax.eval_shape(theirs, *inputs).shape, seed=9)

  def both(function):
    return quick_jit(
      jax.value_and_grad(lambda *inputs: (jnp.sum(weights * function(*inputs)), None)[0], tuple(range(len(inputs))))
    )(*inputs)

  assert_close(quick_jit(ours)(*inputs), quick_jit(theirs)(*inputs), TOLERANCE)
  jax.tree.map(lambda a, b: assert_close(a, b, TOLERANCE), both(ours)[1], both(theirs)[1])


def test_a_block_is_one_pixel_row_by_row():
  x = np.arange(2 * 4 * 6).reshape(1, 4, 6, 2)
  folded = layout.fold(x, 2, 3)
  assert folded.shape == (1, 2, 2, 12)
  np.testing.assert_array_equal(folded[0, 1, 1], x[0, 2:4, 3:6].reshape(-1))


@pytest.mark.parametrize("block", BLOCKS)
def test_unfold_turns_fold_round(block):
  x = random_array(2, 12, 12, 5)
  np.testing.assert_array_equal(layout.unfold(layout.fold(x, *block), *block), x)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", [(3, 3), (1, 7), (5, 1), (1, 1)])
def test_folded_kernel_gives_the_same_convolution(block, size):
  def folded(x, kernel):
    return layout.unfold(same_conv(layout.fold(x, *block), layout.fold_kernel(kernel, *block)), *block)

  assert_same_with_gradients(folded, same_conv, random_array(2, 12, 12, 3), random_array(*size, 3, 4, seed=1))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", [(3, 3), (1, 7), (5, 1)])
def test_folded_outputs_of_a_plain_map(block, size):
  def folded(x, kernel):
    padding = tuple((side // 2,) * 2 for side in size)
    return layout.unfold(same_conv(x, layout.fold_outputs(kernel, *block), block, padding), *block)

  assert_same_with_gradients(folded, same_conv, random_array(2, 12, 12, 3), random_array(*size, 3, 4, seed=1))


def test_filling_is_left_out_and_stays_zero():
  layout = Layout(3, (2, 2), 16)
  x, kernel = random_array(2, 8, 8, 3), random_array(3, 3, 3, 3, seed=1)
  filled = layout.widen(layout.fold(x, 2, 2), 16)
  y = same_conv(filled, layout.widen_kernel(layout.fold_kernel(kernel, 2, 2), 16, 16))
  assert y.shape[-1] == 16 and not np.asarray(y[..., 12:]).any()
  assert_close(layout.to_plain(y, layout), same_conv(x, kernel), TOLERANCE)
  bias = np.float32([1, 2, 3])
  np.testing.assert_array_equal(layout.repeat(bias, layout), [1, 2, 3] * 4 + [0] * 4)


@pytest.mark.parametrize("block", [(2, 2), (1, 1), (3, 2)])
def test_labels_stand_where_the_scores_planes_stand(block):
  labels = np.random.default_rng(0).integers(0, 256, (2, 12, 18)).astype(np.uint8)
  scores = ScoreMap(layout.fold(jnp.asarray(labels, jnp.float32)[..., None], *block), Layout(1, block))
  found = layout.fold_labels(labels, *block)
  np.testing.assert_array_equal(np.asarray(found, np.float32), scores.planes()[:, :, :, 0])


def folded_scores(channels=6, width=30, dtype=jnp.float32):
  plain = 4 * random_array(2, 8, 12, channels)
  return jnp.asarray(plain, dtype), ScoreMap(
    layout.widen(layout.fold(jnp.asarray(plain, dtype), 2, 2), width), Layout(channels, (2, 2), width)
  )


def test_plain_view_and_classes_of_folded_scores():
  plain, scores = folded_scores()
  np.testing.assert_array_equal(scores.logits(), plain)
  np.testing.assert_array_equal(scores.classes(), np.argmax(plain, -1))
  assert scores.logits().dtype == jnp.float32 and scores.classes().dtype == jnp.uint8
  tie = ScoreMap(jnp.zeros((1, 1, 1, 24)), Layout(6, (2, 2)))
  assert not np.asarray(tie.classes()).any()


def test_classes_of_plain_scores_leave_the_filling_out():
  scores = ScoreMap(jnp.pad(-1 - jnp.abs(random_array(1, 4, 4, 5)), [(0, 0)] * 3 + [(0, 3)]), Layout(5, width=8))
  np.testing.assert_array_equal(scores.classes(), np.argmax(scores.logits(), -1))


OPTIONS = {
  "plain": {},
  "weights": dict(class_weights=(1.0, 0.5, 0.0, 2.0, 1.0, 3.0)),
  "smoothing": dict(label_smoothing=0.1, class_weights=(1.0, 0.5, 0.25, 2.0, 1.0, 3.0)),
  "ohem": dict(ohem_fraction=0.3, ohem_threshold=0.05),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_loss_of_folded_scores_equals_that_of_the_plain_view(options):
  plain, scores = folded_scores()
  rng = np.random.default_rng(1)
  labels = np.where(rng.random((2, 8, 12)) < 0.25, 255, rng.integers(0, 6, (2, 8, 12))).astype(np.uint8)

  def ours(array):
    total, weight = losses.of_scores(ScoreMap(array, scores.layout), labels, **options)
    return total, weight

  def theirs(plain):
    return losses.cross_entropy(plain, labels, **options)

  (total, weight), gradient = quick_jit(jax.value_and_grad(ours, has_aux=True))(scores.array)
  (expected, expected_weight), expected_gradient = quick_jit(jax.value_and_grad(theirs, has_aux=True))(plain)
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  assert weight == expected_weight > 0
  assert_close(layout.to_plain(gradient, scores.layout), expected_gradient, TOLERANCE)
  assert not np.asarray(gradient[..., scores.layout.used :]).any()


def test_loss_of_folded_scores_is_sound_at_extremes():
  """Logits far apart, in a block too, neither overflow nor vanish."""
  plain = np.float32([[[-1e4, 0, 1e4], [-3e4, -3e4, -3e4]], [[-200, 200, 0], [0, 0, 0]]])[None]
  labels = np.uint8([[[1, 2], [0, 255]]])
  total, _ = losses.of_scores(ScoreMap(layout.fold(plain, 2, 2), Layout(3, (2, 2))), labels)
  np.testing.assert_allclose(total, 1e4 + np.log(3) + 400, rtol=1e-6)


def test_gradient_of_folded_bfloat16_scores_is_bfloat16():
  _, scores = folded_scores(dtype=jnp.bfloat16)
  labels = np.zeros((2, 8, 12), np.uint8)
  gradient = jax.grad(lambda array: losses.of_scores(ScoreMap(array, scores.layout), labels)[0])(scores.array)
  assert gradient.dtype == jnp.bfloat16
