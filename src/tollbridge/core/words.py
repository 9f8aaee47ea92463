"""Numbers in sentences."""


def plural(value: int, one: str, many: str = "") -> str:
    """`1 key`, `2 keys`, `1,000 keys`. `many`: the plural, unless it is `one` with an s."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"
