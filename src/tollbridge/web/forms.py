"""What was filled in, and what is wrong with it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from tollbridge.core.money import parse_usd, without_thousands
from tollbridge.core.words import read_whole
from tollbridge.errors import ApiError, InvalidRequest

MOST_FIELDS = 200


class Form:
    """`form["email"]`: what was filled in ("" if nothing); `form.errors["email"]`: what is wrong with it.

    Templates show both with the macro `field`; a problem that concerns no field goes above the form (`form.problem`).
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = dict(values or {})
        self.errors: dict[str, str] = {}
        self.problem = ""

    def __getitem__(self, name: str) -> str:
        return self._values.get(name, "")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        """Whether a box is ticked."""
        return self._values.get(name, "") not in {"", "0", "false", "off"}

    def usd(self, name: str) -> int:
        """Nano-USD of what people write: `25`, `25.50`, `$1,000`. InvalidRequest names the field."""
        try:
            return parse_usd(without_thousands(self[name].strip().removeprefix("$")))
        except ValueError:
            raise InvalidRequest("Write an amount in USD, such as 25 or 12.50.", param=name) from None

    def usd_if_any(self, name: str) -> int | None:
        """As `usd`; None if empty."""
        return self.usd(name) if self[name].strip() else None

    def whole_if_any(self, name: str) -> int | None:
        """`60` and `200,000`; None if empty. InvalidRequest names the field."""
        text = without_thousands(self[name].strip())
        number = read_whole(text, 15)
        if text and number is None:
            raise InvalidRequest("Write a whole number, such as 60 or 200,000.", param=name)
        return number

    def day_if_any(self, name: str) -> int | None:
        """The first moment of a day, UTC, in milliseconds; None if empty. InvalidRequest names the field."""
        text = self[name].strip()
        if not text:
            return None
        try:
            return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000
        except ValueError:
            raise InvalidRequest("Write a day that there is, like 2027-01-31.", param=name) from None

    def refused(self, error: ApiError, *fields: str) -> "Form":
        """This form with each reason beside the field that it names. One that names none of `fields` goes above it."""
        others = error.others if isinstance(error, InvalidRequest) else ()
        for each in (error, *others):
            if each.param is not None and each.param in fields:
                self.errors[each.param] = each.message
            else:
                self.problem = self.problem or each.message
        return self


def parse(body: bytes) -> Form:
    """A form as browsers send it; raises `InvalidRequest`."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise InvalidRequest("This form could not be read.") from None
    if any("\0" in value for _, value in pairs):
        raise InvalidRequest("This form could not be read.")
    return Form(dict(pairs))
