"""What keeps other sites, and scripts that are not ours, from doing anything with a visitor's session.

Rules
1. A page that changes something is a POST, from our own origin, with a token that only our own pages hold.
2. Scripts, styles, pictures and connections come only from here, and none is inline.
3. Links are built from the configured address. An unknown Host is refused: it may be another site's name that resolves
   to us (DNS rebinding).
"""

import hmac
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from tollbridge.errors import Forbidden

# Where the payment provider takes over: a form of ours may be redirected there. Where scripts run, no form leads to a
# payment (`leads_to_payment` in billing/parts.html), which may then be anywhere.
CHECKOUT = "https://checkout.stripe.com https://billing.stripe.com"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    f"font-src 'self'; manifest-src 'self'; form-action 'self' {CHECKOUT}; base-uri 'none'; object-src 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
HSTS = ("strict-transport-security", "max-age=31536000; includeSubDomains")
SAFE_METHODS = frozenset({"GET", "HEAD"})
_LOCAL_NAMES = frozenset({"localhost"})


class Unknown(Forbidden):
    """The Host of a request is not ours."""

    status = 421
    code = "unknown_host"


class CrossSite(Forbidden):
    code = "csrf"


def check_host(host: str, public_url: str | None) -> None:
    """Raises `Unknown`. An IP address cannot be another site's name."""
    if public_url is not None and host == urlsplit(public_url).netloc:
        return
    try:
        parts = urlsplit(f"//{host}")
        name = (parts.hostname or "") if parts.netloc == host and "@" not in host else ""
    except ValueError:
        name = ""
    if name in _LOCAL_NAMES or name.endswith(".localhost") or _is_address(name):
        return
    raise Unknown("This gateway does not answer to this host name. Its operator can set it as public_url.")


def check_origin(headers: Mapping[str, str], public_url: str | None) -> None:
    """Raises `CrossSite` if a browser says that the request comes from another site."""
    site = headers.get("sec-fetch-site")
    if site not in {None, "same-origin"}:
        raise CrossSite("This form was sent from another site. Open the page here and try again.")
    origin = headers.get("origin")
    host = headers.get("host", "")
    ours = {f"http://{host}"} if public_url is None else {public_url}
    if public_url is not None and host != urlsplit(public_url).netloc:
        ours.add(f"http://{host}")
    if origin is not None and origin not in ours:
        raise CrossSite("This form was sent from another site. Open the page here and try again.")


def check_token(expected: Iterable[str], given: str) -> None:
    if not given or not any(hmac.compare_digest(each.encode(), given.encode()) for each in expected):
        raise CrossSite("This form has expired. Reload the page and try again.")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
