import pytest

from tollbridge.core.words import plural, read_whole


def test_one_is_singular_and_every_other_number_is_not() -> None:
    assert [plural(count, "key") for count in (0, 1, 1_000)] == ["0 keys", "1 key", "1,000 keys"]
    assert [plural(count, "window was", "windows were") for count in (1, 2)] == ["1 window was", "2 windows were"]


@pytest.mark.parametrize("text", ["", " 1", "-1", "+1", "1.0", "1_000", "1e3", "²", "١", "1" * 19])
def test_what_is_no_whole_number_is_not_read_as_one(text: str) -> None:
    assert read_whole(text) is None


def test_a_whole_number_is_read_up_to_its_most_digits() -> None:
    assert (read_whole("007"), read_whole("9" * 18)) == (7, 10**18 - 1)
    assert (read_whole("999", 3), read_whole("1000", 3)) == (999, None)
