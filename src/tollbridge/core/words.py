"""Numbers as people write and read them."""


def read_whole(text: str, most_digits: int = 18) -> int | None:
    """What `text` says in digits, of which no number of a database has more than 18; None: it says something else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= most_digits else None


def plural(value: int, one: str, many: str = "") -> str:
    """`1 key`, `2 keys`, `1,000 keys`. `many`: the plural, unless it is `one` with an s."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"
