"""Paths that are nearly right: which one a client meant when it called one that does not exist.

The usual mistake is a base URL that lacks `/v1` (OpenAI's clients want it) or has it once too often (Anthropic's do not
want it), or the base URL of another gateway (`/api/v1`, `/openai/v1`).
"""

from collections.abc import Iterable
from difflib import get_close_matches

ROOT = "/v1"
_LONGEST = 64


def ends_like_one(path: str, endpoints: Iterable[str]) -> bool:
    """Whether `path` ends like one of `endpoints`, whatever comes before that."""
    return path.endswith(tuple(each.removeprefix(ROOT) for each in endpoints))


def is_of_the_api(path: str, endpoints: Iterable[str]) -> bool:
    """Whether `path` belongs to the API and not to the pages, even if it is only nearly right."""
    if path.startswith("/v1/") or path == ROOT:
        return True
    # The guide has a page named after each endpoint, and a model may have any name.
    return ends_like_one(path, endpoints) and not path.startswith(("/docs/", "/models/"))


def meant(path: str, endpoints: Iterable[str]) -> str | None:
    """The endpoint that was meant by `path`, which is not one itself; None if there is no telling."""
    known = sorted(endpoints, key=len, reverse=True)
    trimmed = path.rstrip("/")[-_LONGEST:]
    for each in known:
        if trimmed.endswith(each.removeprefix(ROOT)):
            return each
    return next(iter(get_close_matches(trimmed, known, n=1, cutoff=0.8)), None)


def not_here(method: str, path: str, endpoints: Iterable[str]) -> str:
    """The message for a client that called a path that does not exist."""
    said = f"There is no {method} {path[:200]} here."
    right = meant(path, endpoints)
    if right is None:
        return f"{said} The API is described under /docs."
    if ROOT not in path:
        return f"{said} You want {right}: the base URL of OpenAI's clients ends with {ROOT}."
    if path.endswith(f"{ROOT}{right}"):
        return (
            f"{said} You want {right}: a client that adds {ROOT} itself, as Anthropic's do, wants a base URL without."
        )
    return f"{said} You want {right}."
