"""Ordered parallel map over a stream, and rounding up."""

import itertools
import threading

import pytest

from gcn_flax.parallel import parallel_map
from gcn_flax.rounding import ceil_div, round_up


def test_results_come_in_the_order_of_the_arguments():
  assert list(parallel_map(lambda number: number * number, range(1000), 3)) == [number**2 for number in range(1000)]
  assert list(parallel_map(str, [], 2)) == []


def test_arguments_are_taken_only_as_threads_become_free():
  taken = []

  def numbers():
    for number in itertools.count():
      taken.append(number)
      yield number

  found = parallel_map(lambda number: -number, numbers(), 2)
  for turn in range(5):
    assert next(found) == -turn
    assert len(taken) == turn + 3
  found.close()


def test_calls_run_at_the_same_time():
  together = threading.Barrier(2, timeout=30)
  assert sorted(parallel_map(lambda number: together.wait(), range(2), 2)) == [0, 1]


def test_an_error_of_the_function_is_raised_in_its_turn():
  found = parallel_map(lambda number: 1 // number, [1, 1, 0, 1], 2)
  assert [next(found), next(found)] == [1, 1]
  with pytest.raises(ZeroDivisionError):
    next(found)


@pytest.mark.parametrize("value, divisor, expected", [(0, 8, 0), (1, 8, 1), (8, 8, 1), (9, 8, 2), (2047, 32, 64)])
def test_rounding_goes_up_to_the_next_multiple(value, divisor, expected):
  assert ceil_div(value, divisor) == expected
  assert round_up(value, divisor) == expected * divisor
