"""Where a stranger's URL may lead: to the public internet, and nowhere else. And whose address a caller has.

Rule 1  A URL is http or https, names a host, has no user, and no port but 80 and 443. A URL that two parsers could read
        as two different hosts (backslashes, white space, control characters, numbers that are no dotted quad) is
        refused.
Rule 2  An address is public only if it is in no special-purpose block. The registries' lists are copied here, because
        those of Python's `ipaddress` differ between its patch releases.
Rule 3  An IPv6 address that carries an IPv4 address (mapped, NAT64) is judged by the latter; 6to4 and Teredo, which
        tunnel to any address, are refused.

From https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry.
"""

import ipaddress
import re
from urllib.parse import quote, urlsplit

import msgspec

PORTS = {"http": 80, "https": 443}
MAX_URL = 4096

_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's wire server: a public number that leads to the machine's own host
    )
)
# Nothing outside 2000::/3 is allocated on the internet (RFC 4291, 2.4).
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # direct delegation of AS112
        "3fff::/20",  # documentation
    )
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_UNCLEAR = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# What `inet_aton` reads as a number.
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


class BadUrl(ValueError):
    """The URL cannot be used; the message says why and can be shown to whoever wrote it."""


class Place(msgspec.Struct, frozen=True):
    """Where a URL leads. `host` is a name or an address, in lower case and ASCII; `target` starts with a slash."""

    secure: bool
    host: str
    port: int
    target: bytes

    @property
    def origin(self) -> str:
        """Scheme, host and port, the port always written out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}"


def place(url: str) -> Place:
    """Parse a URL by Rule 1. Raises `BadUrl`."""
    if len(url) > MAX_URL:
        raise BadUrl(f"is longer than {MAX_URL} characters")
    if _UNCLEAR.search(url):
        raise BadUrl("has white space, a backslash or a control character in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadUrl("is not a URL") from None
    if parts.scheme not in PORTS:
        raise BadUrl("does not start with http:// or https://")
    if "@" in parts.netloc:
        raise BadUrl("has a user name in it")
    if port not in (None, *PORTS.values()):
        raise BadUrl("has a port other than 80 and 443")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Place(parts.scheme == "https", _host(host), port or PORTS[parts.scheme], target.encode("ascii"))


def is_public(address: str) -> bool:
    """Whether an address, as a resolver gives it, is on the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        if parsed not in _MAPPED and parsed not in _NAT64:
            return parsed in _UNICAST_6 and not any(parsed in network for network in _NOT_PUBLIC_6)
        parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return not any(parsed in network for network in _NOT_PUBLIC_4)


def customer_of(address: str) -> str:
    """The address by which one customer is known: the IPv4 address, or the /64 of an IPv6 address.

    ValueError: `address` has a colon and is not an IPv6 address.
    """
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def client_address(peer: str, forwarded: str, trusted: tuple[str, ...]) -> str:
    """Who calls: if the peer is a trusted proxy, the last address in `X-Forwarded-For` that is not one, else the peer.

    `trusted`: addresses and networks.
    """
    chain = [*(part.strip() for part in forwarded.split(",") if part.strip()), peer]
    while len(chain) > 1 and _is_of(chain[-1], trusted):
        chain.pop()
    try:
        ipaddress.ip_address(chain[-1])
    except ValueError:
        return peer
    return chain[-1]


def _is_of(address: str, places: tuple[str, ...]) -> bool:
    if address in places:
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(place) for place in places if "/" in place)


def _host(host: str) -> str:
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise BadUrl("has an IPv6 address that is none") from None
        if address.scope_id is not None:
            raise BadUrl("has an IPv6 address of one network only")
        return str(address)
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise BadUrl("names a host that cannot be") from None
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadUrl("names no host, or one that cannot be")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise BadUrl("has an address that is not written as four decimal numbers") from None
    return name
