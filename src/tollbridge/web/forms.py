"""What was filled in, and what is wrong with it."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

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

    def refused(self, error: ApiError, *fields: str) -> "Form":
        """This form with the reason beside the field that it names, if that is one of `fields`, else above the form."""
        if error.param is not None and error.param in fields:
            self.errors[error.param] = error.message
        else:
            self.problem = error.message
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
