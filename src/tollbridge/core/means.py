"""What is usual, learned from what came."""

# The latest value counts for one part in this many of a running mean.
_SHARE = 8
_KEPT = 10_000


class Means:
    """A running mean of whole numbers for each key, such as the lengths of its answers."""

    def __init__(self) -> None:
        self._means: dict[int, int] = {}

    def of(self, key: int) -> int:
        """0 if nothing has been learned."""
        return self._means.get(key, 0)

    def learn(self, key: int, value: int) -> None:
        """Whoever has not been heard of for longest is forgotten first."""
        means = self._means
        mean = means.pop(key, None)
        if mean is not None:
            value = mean + (value - mean) // _SHARE
        elif len(means) >= _KEPT:
            del means[next(iter(means))]
        means[key] = value
