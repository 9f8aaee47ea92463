"""Running means: what is usual for each key."""

from hypothesis import given
from hypothesis import strategies as st

from tollbridge.core import means
from tollbridge.core.means import Means


def test_the_latest_value_counts_for_an_eighth() -> None:
    lengths = Means()
    assert lengths.of(1) == 0
    lengths.learn(1, 800)
    assert lengths.of(1) == 800
    lengths.learn(1, 1_600)
    assert lengths.of(1) == 900
    lengths.learn(2, 5)
    assert (lengths.of(1), lengths.of(2)) == (900, 5)


@given(st.lists(st.integers(0, 1 << 40), min_size=1))
def test_a_mean_is_within_what_came(values: list[int]) -> None:
    lengths = Means()
    for value in values:
        lengths.learn(1, value)
    assert min(values) <= lengths.of(1) <= max(values)


def test_whoever_has_not_been_heard_of_for_longest_is_forgotten() -> None:
    lengths = Means()
    for key in range(means._KEPT):
        lengths.learn(key, 7)
    lengths.learn(0, 7)
    lengths.learn(means._KEPT, 7)
    assert (lengths.of(0), lengths.of(1), lengths.of(means._KEPT)) == (7, 0, 7)
