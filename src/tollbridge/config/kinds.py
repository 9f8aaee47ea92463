"""What the value of a setting may look like: each kind reads it from TOML, or says what would be right."""

import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Callable
from datetime import date
from difflib import get_close_matches
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from tollbridge.core import catalog, money
from tollbridge.core.catalog import PeriodRow, PriceRow, TierRow
from tollbridge.values import DAY_MS

_FIRST_DAY = date(1970, 1, 1)

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]+)\s*(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PERCENT = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,4}))?")
# What `paths` of a provider may name.
ENDPOINTS = ["chat", "stream", "completions", "embeddings", "messages"]
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The pool sends these itself; a second one would change where a request ends or what comes back.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te"})
_INNER_PRICES: dict[str, type[msgspec.Struct]] = {"tiers": TierRow, "periods": PeriodRow}
_TIMES = {"since": '"2027-01-31"', "until": '"2027-01-31"', "days": '"mon-fri"', "hours": '"01:00-04:00"'}
# Pico-USD per token. The cheapest model of the shipped catalog costs a hundred times as much.
_MOST_PER_TOKEN = 100
# Link-local addresses in a cloud machine hand out its credentials.
_LINK_LOCAL_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data"})
_METADATA_6 = ipaddress.IPv6Address("fd00:ec2::254")


class Wrong(ValueError):
    """A value is not of its kind; the message says what would be right and never quotes a secret.

    `inside`: the key within the value, if it is a table.
    """

    def __init__(self, message: str, *inside: str) -> None:
        super().__init__(message)
        self.inside = inside


class Secret:
    """A text that nothing shows by accident: not `repr`, `str`, a format, or the locals in a traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('***')"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """`name`: as in the documentation. `parse` takes what TOML returned, or raises `Wrong`.

    `plain`: an environment variable holds the text itself; otherwise it holds what would be in the file (`8000`,
    `true`, `["*"]`). `secret`: masked wherever it is shown, and may be a reference (`env:NAME`, `file:PATH`).
    """

    name: str
    parse: Callable[[Any], Any]
    plain: bool = True
    secret: bool = False


def is_text(text: str) -> bool:
    """False for bytes in another encoding, which come from the environment as characters that cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def nearest(name: str, known: list[str]) -> str:
    """What to suggest after an unknown name."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(set(known)))}"


def toml(value: Any) -> str:
    """`value` as written in TOML."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_key(name)} = {toml(each)}" for name, each in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return (
        json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool | int | float) else json.dumps(f"{value}")
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


# --- texts --------------------------------------------------------------------------------------------------------


def _string(raw: Any, like: str) -> str:
    if not isinstance(raw, str):
        raise Wrong(f"expected a text in quotes, {like}")
    return raw


def text(like: str, pattern: str = r"[^\x00-\x1f\x7f]+", most: int = 500) -> Kind:
    """A text of at most `most` characters that matches `pattern`; `like` describes it: `such as "…"`."""
    compiled = re.compile(pattern)

    def parse(raw: Any) -> str:
        read = _string(raw, like)
        if compiled.fullmatch(read) is None or len(read) > most:
            raise Wrong(f"expected a text of 1 to {most} characters, {like}")
        return read

    return Kind(name="text", parse=parse)


def choice(*allowed: str) -> Kind:
    listed = ", ".join(f'"{each}"' for each in allowed)

    def parse(raw: Any) -> str:
        if raw not in allowed:
            hint = nearest(raw, list(allowed)) if isinstance(raw, str) and len(allowed) > 1 else ""
            raise Wrong(f"expected one of {listed}" + (f"; {hint}" if "did you" in hint else ""))
        return str(raw)

    return Kind(name="one of " + ", ".join(f"`{each}`" for each in allowed), parse=parse)


def one_of(*allowed: int) -> Kind:
    listed = " or ".join(map(str, allowed))

    def parse(raw: Any) -> int:
        if isinstance(raw, bool) or raw not in allowed:
            raise Wrong(f"expected {listed}, without quotes")
        return int(raw)

    return Kind(name="one of " + ", ".join(f"`{each}`" for each in allowed), parse=parse, plain=False)


def some(*allowed: str) -> Kind:
    """A list of these, in the order in which they are allowed here."""
    one = choice(*allowed)

    def parse(raw: Any) -> tuple[str, ...]:
        if not isinstance(raw, list) or not raw:
            raise Wrong(f'expected a list such as ["{allowed[0]}"]')
        given = {one.parse(each) for each in raw}
        return tuple(each for each in allowed if each in given)

    return Kind(name="some of " + ", ".join(f"`{each}`" for each in allowed), parse=parse, plain=False)


def _texts(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(each, str) and each for each in raw):
        raise Wrong('expected a list of texts such as ["a", "b"]')
    return tuple(raw)


def _text_by_name(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(each, str) and each for each in raw.values()):
        raise Wrong('expected a table of texts such as { max_tokens = "max_completion_tokens" }')
    return raw


def _json_by_name(raw: Any) -> dict[str, str]:
    for name, value in _text_by_name(raw).items():
        try:
            json.loads(value)
        except ValueError:
            raise Wrong('expected JSON in quotes, such as "true" or \'"a text"\'', name) from None
    return dict(raw)


def _headers(raw: Any) -> dict[str, Secret]:
    for name, value in _text_by_name(raw).items():
        if _HEADER.fullmatch(name) is None:
            raise Wrong("this is not a valid name of a header", name)
        if name.lower() in _OWN_HEADERS:
            raise Wrong("the gateway sets this header itself", name)
        if re.fullmatch(r"[\x20-\x7e]+", value) is None:
            raise Wrong("expected printable ASCII in one line", name)
    return {name: Secret(value) for name, value in raw.items()}


def _secret(raw: Any) -> Secret:
    read = _string(raw, 'preferably "env:NAME" or "file:PATH"')
    if read.startswith("{"):  # a service account's key
        try:
            return Secret(json.dumps(json.loads(read), separators=(",", ":")))
        except ValueError:
            raise Wrong("a secret that begins with { must be JSON: a service account's key as downloaded") from None
    if re.fullmatch(r"[\x21-\x7e]{1,4096}", read) is None:
        raise Wrong("a secret must be 1 to 4,096 printable ASCII characters without spaces")
    return Secret(read)


def _file(raw: Any) -> str:
    path = Path(_string(raw, 'such as "terms.md"'))
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise Wrong(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Wrong(f"{path} is not UTF-8 text") from None


def _lines(raw: Any) -> tuple[str, ...]:
    lines = _texts(raw)
    if len(lines) > 9 or any(len(line) > 300 or not line.isprintable() for line in lines):
        raise Wrong("expected at most nine texts, each one line of up to 300 characters")
    return lines


LINES = Kind(name="list of texts", parse=_lines, plain=False)
TEXTS = Kind(name="list of texts", parse=_texts, plain=False)
TEXT_BY_NAME = Kind(name="table of texts", parse=_text_by_name, plain=False)
HEADERS = Kind(name="table of texts", parse=_headers, plain=False, secret=True)
JSON_BY_NAME = Kind(name="table of texts", parse=_json_by_name, plain=False)
PLACE = text('such as "eu-central-1" (letters, digits, ., _ and -)', r"[A-Za-z0-9][A-Za-z0-9._-]*", 100)
SECRET = Kind(name="secret", parse=_secret, secret=True)
FILE = Kind(name="path of a text", parse=_file)
PATH = Kind(name="path", parse=lambda raw: Path(text('such as "data"').parse(raw)))

# --- numbers ------------------------------------------------------------------------------------------------------


def whole(least: int, most: int) -> Kind:
    def parse(raw: Any) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool) or not least <= raw <= most:
            raise Wrong(f"expected a whole number from {least} to {most}, without quotes")
        return raw

    return Kind(name="whole number", parse=parse, plain=False)


def _flag(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise Wrong("expected true or false, without quotes")
    return raw


def _date(raw: Any) -> int:
    """Milliseconds since the epoch at the first moment of a day, UTC."""
    try:
        day = raw if type(raw) is date else date.fromisoformat(_string(raw, 'a date such as "2027-01-31"'))
    except ValueError:
        raise Wrong('expected a date such as "2027-01-31"') from None
    return (day - _FIRST_DAY).days * DAY_MS


def duration(least: float, most: float) -> Kind:
    """Seconds, from a text with a unit."""

    def parse(raw: Any) -> float:
        match = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
        seconds = float(match[1]) * _SECONDS[match[2]] if match else -1.0
        if not least <= seconds <= most:
            raise Wrong(f'expected a duration from "{least:g}s" to "{most:g}s", such as "500ms", "30s" or "2m"')
        return seconds

    return Kind(name="duration", parse=parse)


def size(least: int, most: int) -> Kind:
    """Bytes, from a text with a unit."""

    def parse(raw: Any) -> int:
        match = _SIZE.fullmatch(raw) if isinstance(raw, str) else None
        count = int(match[1]) * _BYTES[match[2]] if match else -1
        if not least <= count <= most:
            raise Wrong(f'expected a size from "{least}B" to "{most}B", such as "512KiB" or "10MiB"')
        return count

    return Kind(name="size", parse=parse)


def _usd(raw: Any) -> int:
    try:
        return money.parse_usd(_string(raw, 'an amount in USD such as "5.00"'))
    except ValueError as error:
        raise Wrong(str(error)) from None


def _cents(raw: Any) -> int:
    amount = _usd(str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw)
    if amount % money.NANO_PER_CENT or amount == 0:
        raise Wrong("a payment must be above zero and in whole cents")
    return amount


def _packs(raw: Any) -> tuple[int, ...]:
    if not isinstance(raw, list):
        raise Wrong("expected a list of amounts in USD such as [10, 50, 200]")
    packs = tuple(map(_cents, raw))
    if list(packs) != sorted(set(packs)):
        raise Wrong("expected each amount once, the smallest first, such as [10, 50, 200]")
    return packs


def _percent(raw: Any) -> int:
    """Parts per million, including the whole: "20" (percent) is 1,200,000."""
    match = _PERCENT.fullmatch(_string(raw, 'a percentage such as "20"'))
    share = int(match[1]) * 10_000 + int((match[2] or "").ljust(4, "0")) if match else -1
    if not 0 <= share <= 1000 * 10_000:
        raise Wrong('expected a percentage from "0" to "1000" with at most four decimal places, such as "20" or "7.5"')
    return money.PPM + share


def _prices(raw: Any) -> PriceRow:
    _check_rates(raw, PriceRow)
    try:
        row = msgspec.convert(raw, PriceRow)
        catalog.price(row)
        catalog.periods(row)
    except ValueError as error:
        raise Wrong(str(error)) from None
    return row


def _check_rates(raw: Any, form: type[msgspec.Struct]) -> None:
    """Each meter is a price, each other member of its own kind; tiers and periods contain such members themselves."""
    known = list(form.__struct_fields__)
    if not isinstance(raw, dict):
        raise Wrong('expected prices such as { input = "0.50", output = "1.50" }')
    for name, value in raw.items():
        if name not in known:
            raise Wrong(f"unknown meter; {nearest(name, known)}", name)
        if name in _INNER_PRICES:
            if not isinstance(value, list):
                raise Wrong(f"expected a list: {name} = [{{ … }}]", name)
            for each in value:
                _check_rates(each, _INNER_PRICES[name])
        elif name == "above":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise Wrong("expected a number of tokens, such as 200000", name)
        elif name in _TIMES:
            if not isinstance(value, str):
                raise Wrong(f"expected a text in quotes, such as {_TIMES[name]}", name)
        else:
            _check_rate(value, name)
    for name in ("input", "above"):
        if name in known and name not in raw:
            example = "200000" if name == "above" else '"0.50", or "0" for nothing'
            raise Wrong(f"{name} is missing: write {name} = {example}")


def per_token(price: PriceRow) -> list[str]:
    """The meters of a price that look as if they were per token, as in other lists: so little is asked by nobody."""
    return [each for each in ("input", "output") if 0 < money.parse_price(getattr(price, each)) <= _MOST_PER_TOKEN]


def _check_rate(value: Any, meter: str) -> None:
    try:
        money.parse_price(_string(value, 'a price in USD per million tokens such as "0.50"'))
    except ValueError as error:
        raise Wrong(str(error), meter) from None


DATE = Kind(name="date", parse=_date)
FLAG = Kind(name="true or false", parse=_flag, plain=False)
USD = Kind(name="USD", parse=_usd)
CENTS = Kind(name="USD", parse=_cents)
PACKS = Kind(name="list of USD", parse=_packs, plain=False)
PERCENT = Kind(name="percentage", parse=_percent)
PRICES = Kind(name="prices", parse=_prices, plain=False)

# --- addresses ----------------------------------------------------------------------------------------------------


def split_url(raw: Any, like: str) -> SplitResult:
    """The parts of an http or https URL without credential, query or fragment."""
    try:
        parts = urlsplit(_string(raw, like))
        parts.port  # noqa: B018 (raises for a port that is none)
    except ValueError:
        raise Wrong(f"expected a URL, {like}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"[\x00-\x20\x7f\\]", raw):
        raise Wrong(f"expected a URL with http:// or https://, {like}")
    if "@" in parts.netloc:
        raise Wrong("a URL may contain no user and no password here: they would be shown")
    if parts.query or parts.fragment:
        raise Wrong("a URL may contain no ? and no # here")
    return parts


def _host(raw: Any) -> str:
    like = 'such as "127.0.0.1", "::1" or "gateway.local"'
    read = _string(raw, like)
    if _address(read) is None and re.fullmatch(r"[A-Za-z0-9._-]{1,253}", read) is None:
        raise Wrong(f"expected an address, {like}")
    return read


def _addresses(raw: Any) -> tuple[str, ...]:
    for each in _texts(raw):
        if _address(each) is None:
            raise Wrong('expected a list of addresses such as ["127.0.0.1", "::1"]')
    return tuple(raw)


def _networks(raw: Any) -> tuple[str, ...]:
    for each in _texts(raw):
        try:
            ipaddress.ip_network(each)
        except ValueError:
            raise Wrong('expected a list of addresses and networks such as ["127.0.0.1", "10.1.0.0/16"]') from None
    return tuple(raw)


# What a provider's documentation has behind its base URL.
_ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/messages", "/responses")


def _base_url(raw: Any) -> str:
    parts = split_url(raw, 'such as "https://api.example.com/v1"')
    host = (parts.hostname or "").removesuffix(".")
    address = _called(host)
    if (address is not None and (address.is_link_local or address == _METADATA_6)) or host in _LINK_LOCAL_NAMES:
        raise Wrong("this is the address of a cloud's metadata service, not of a provider")
    for end in _ENDPOINTS:
        if parts.path.rstrip("/").endswith(end):
            raise Wrong(f"leave {end} out: it is added for each call")
    return str(raw).rstrip("/")


def _public_url(raw: Any) -> str:
    parts = split_url(raw, 'such as "https://api.example.com"')
    if parts.path not in {"", "/"}:
        raise Wrong("the gateway is served at the root of its host: leave the path out")
    return str(raw).rstrip("/")


def _database_url(raw: Any) -> Secret:
    like = 'expected "sqlite:///path/of/a/file.db" or "postgresql://user:password@host/name"'
    read = _string(raw, like)
    if read.startswith("sqlite:///"):
        if len(read) > len("sqlite:///") and "?" not in read and ":memory:" not in read:
            return Secret(read)
    elif read.startswith(("postgresql://", "postgres://")):
        try:
            parts = urlsplit(read)
        except ValueError:
            raise Wrong(like) from None
        hosts = parts.netloc.rpartition("@")[2].split(",")
        # A password that contains / would end the host, and the rest of it would be shown as the name.
        if "@" in parts.path or not all(re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d+)?", host) for host in hosts):
            raise Wrong(f"{like}: / ? # and @ of a password are written %2F %3F %23 and %40")
        if parts.path.strip("/"):
            return Secret(read)
    raise Wrong(like)


def _redis_url(raw: Any) -> Secret:
    like = 'expected "redis://:password@host:6379/0", or rediss:// with TLS'
    read = _string(raw, like)
    if not read.startswith(("redis://", "rediss://")):
        raise Wrong(like)
    try:
        parts = urlsplit(read)
    except ValueError:
        raise Wrong(like) from None
    # A password that contains / would end the host, and its beginning would be taken for a port.
    if "@" in read.removeprefix(f"{parts.scheme}://{parts.netloc}"):
        raise Wrong(f"{like}: / ? # and @ of a password are written %2F %3F %23 and %40")
    host = re.fullmatch(r"(\[[^]]+\]|[^:]+)(:\d{1,5})?", parts.netloc.rpartition("@")[2])
    if host is None or not re.fullmatch(r"/?|/\d{1,5}", parts.path):
        raise Wrong(like)
    return Secret(read)


def _export_url(raw: Any) -> Secret:
    like = 'expected "directory:///path", or "clickhouse://user:password@host:8123/database" (clickhouses: with TLS)'
    read = _string(raw, like)
    parts = urlsplit(read)
    directory = parts.scheme == "directory" and not parts.netloc and len(parts.path) > 1
    if directory or (parts.scheme in {"clickhouse", "clickhouses"} and parts.hostname and len(parts.path) > 1):
        return Secret(read)
    raise Wrong(like)


HOST = Kind(name="address", parse=_host)
ADDRESSES = Kind(name="list of addresses", parse=_addresses, plain=False)
NETWORKS = Kind(name="list of addresses and networks", parse=_networks, plain=False)
BASE_URL = Kind(name="URL", parse=_base_url)
PUBLIC_URL = Kind(name="URL", parse=_public_url)
DATABASE_URL = Kind(name="URL", parse=_database_url, secret=True)
REDIS_URL = Kind(name="URL", parse=_redis_url, secret=True)
EXPORT_URL = Kind(name="URL", parse=_export_url, secret=True)


def without_password(url: str) -> str:
    """A database's URL as it may be shown."""
    scheme, found, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    shown = place.partition("?")[0]
    return f"{scheme}{found}{name}{':***' if colon else ''}{at}{shown}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _called(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a call to `host` goes to, however it is written (`2130706433`, `::ffff:127.0.0.1`)."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    if address is None and re.fullmatch(r"[0-9a-fx.]+", host):
        with contextlib.suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(host))
    return address


def is_for_this_machine(public_url: str | None, host: str) -> bool:
    """Whether nobody but its operator can reach a gateway that has this `public_url` and listens on `host`."""
    return is_loopback(host if public_url is None else split_url(public_url, "").hostname or "")


def is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def is_private(host: str) -> bool:
    """Whether a call to `host` stays within the operator's own network, as far as the name tells."""
    address = _called(host)
    if address is not None:
        return not address.is_global
    ours = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test", ".invalid")
    return "." not in host or host.endswith(ours)
