"""What is noted of people's deeds has words on pages."""

import re

from tests.syntax import PRODUCT

from tollbridge.web import deeds

# As they stand in the sources: a thing, and what was done to it.
NOTED = re.compile(
    r'"((?:account|alert|card|credit|details|email|key|management_key|member|password|payment|plan|subscription|top_up|'
    r'voucher|vouchers)\.[a-z_]+)"'
)
# Settings and templates have names of this form too.
OTHERS = {"payment.succeeded"}


def test_every_action_that_is_noted_has_words() -> None:
    found = set()
    for folder in ("services", "web"):
        for path in (PRODUCT / folder).rglob("*.py"):
            if path.name != "deeds.py":
                found |= set(NOTED.findall(path.read_text("utf-8")))
    assert len(found) > 20
    assert found - OTHERS - set(deeds.WORDS) == set()


def test_an_action_of_another_version_stands_for_itself() -> None:
    assert deeds.words("moon.landed") == "moon.landed"
