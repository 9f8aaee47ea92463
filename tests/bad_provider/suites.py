"""All cases, by the dialect that the provider speaks."""

from functools import cache

from tests.bad_provider import anthropic_cases, gemini_cases, openai_faults, openai_usage
from tests.bad_provider.case import Case

DIALECTS = {
    "openai": (openai_usage.cases, openai_faults.cases),
    "anthropic": (anthropic_cases.cases,),
    "gemini": (gemini_cases.cases,),
}


@cache
def cases() -> tuple[Case, ...]:
    found = tuple(case for groups in DIALECTS.values() for make in groups for case in make())
    names = [case.name for case in found]
    assert len(names) == len(set(names)), "two cases of one name"
    return found


def control(dialect: str, *, stream: bool) -> Case:
    """The case in which nothing is wrong."""
    name = f"{dialect}/control" + ("-stream" if stream else "")
    return next(case for case in cases() if case.name == name)
