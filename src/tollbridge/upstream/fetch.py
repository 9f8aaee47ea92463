"""Fetching what a caller's URL points to, for providers that take no URLs. Off unless the operator switches it on.

Rule 1  The host is looked up once. All of its addresses must be public; the connection goes to one of the checked
        addresses, never to the result of a second look-up. TLS is verified against the name.
Rule 2  A redirect is a URL like any other: parsed, looked up and checked anew, at most `MAX_REDIRECTS` times, and never
        from https to http.
Rule 3  One deadline for all of it, one cap on bytes, no cookies, no credentials, nothing decompressed, and only media
        that a model can read.
Rule 4  An error says nothing that would help to map the operator's network: a name that leads inside and one that leads
        nowhere get the same message.
Rule 5  What was fetched for a call takes up memory until it has ended. There is a limit for all calls, and half of it
        for those of one account.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urljoin
from weakref import WeakValueDictionary

import msgspec

from tollbridge.core import addresses
from tollbridge.core.addresses import BadUrl, Place
from tollbridge.errors import InvalidRequest, ProtocolError, Unavailable, UpstreamError
from tollbridge.upstream.pool import Limits, Pool, Response, tls_context

MAX_REDIRECTS = 3
AT_ONCE = 16
# Of one account: whoever names slow servers must not keep all others waiting.
AT_ONCE_OF_ACCOUNT = 4

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KINDS = ("image/", "audio/", "video/")
_TYPES = frozenset({"application/pdf", "text/plain", "text/csv", "text/markdown"})
# SVG can run scripts and refer to further files.
_NOT_TYPES = frozenset({"image/svg+xml"})
# What servers say that do not know what they serve.
_UNKNOWN = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)


class Fetched(msgspec.Struct, frozen=True):
    """`media_type` without parameters, in lower case."""

    media_type: str
    data: bytes


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for one fetch, redirects included; bytes for all of a request, and `max_held` for all requests that run.
    `hosts`: if there are any, only these are fetched from.
    """

    max_bytes: int = 10 << 20
    max_held: int = 512 << 20
    timeout: float = 10.0
    hosts: tuple[str, ...] = ()


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Connect = Callable[[Place, str, Limits], Pool]


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host. OSError if it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(peer[0]) for *_, peer in found]


class Fetcher:
    """`resolve` looks hosts up; `connect` makes the pool that calls a place at one of its addresses."""

    def __init__(
        self,
        limits: FetchLimits,
        *,
        resolve: Resolve = resolve,
        connect: Connect | None = None,
    ) -> None:
        self._limits = limits
        self._hosts = frozenset(host.lower() for host in limits.hosts)
        self._resolve = resolve
        self._connect = connect or self._pool
        self._tls: ssl.SSLContext | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)
        # Each lives as long as a fetch for its account runs or waits.
        self._shares: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()
        # Bytes that running calls have, or may be sent yet.
        self._held = 0
        self._of_account: Counter[int] = Counter()

    async def fetch(self, url: str, account: int, param: str | None = None) -> Fetched:
        """What `url` points to. Raises `InvalidRequest` with `param`, worded for whoever wrote the URL.

        `account`: who asks. Waiting for a turn is part of the time that a fetch may take.
        """
        share = self._shares.setdefault(account, asyncio.Semaphore(AT_ONCE_OF_ACCOUNT))
        try:
            async with asyncio.timeout(self._limits.timeout), share, self._turns:
                return await self._follow(url)
        except BadUrl as error:
            reason = str(error)
        except TimeoutError:
            reason = f"did not answer within {self._limits.timeout:g} s"
        except ProtocolError:
            reason = f"gave no plain answer of at most {self._limits.max_bytes:,} bytes"
        except (UpstreamError, OSError, ValueError):
            reason = "cannot be reached"
        raise InvalidRequest(f"A URL in the request cannot be fetched: it {reason}.", code="invalid_url", param=param)

    async def fetch_all(self, urls: Sequence[str], account: int, param: str | None = None) -> list[Fetched]:
        """As `fetch`, at once, and together no more than one of them may have: who names many would take up more
        memory than any that brings what it means. If one of them cannot be fetched, the others are given up. The data
        counts as held until the task that called this has ended. Raises `Unavailable` if too much is held.
        """
        if not urls:
            return []
        task = asyncio.current_task()
        assert task is not None
        left = most = self._limits.max_bytes
        self._enter(account, most)

        async def one(url: str) -> Fetched:
            nonlocal left
            fetched = await self.fetch(url, account, param)
            left -= len(fetched.data)
            if left < 0:
                said = f"The URLs in the request point to more than {most:,} bytes together."
                raise InvalidRequest(said, code="invalid_url", param=param)
            return fetched

        fetches = [asyncio.ensure_future(one(url)) for url in urls]
        has = 0
        try:
            found = await asyncio.gather(*fetches)
            has = most - left
            return found
        finally:
            for each in fetches:
                each.cancel()
            self._count(account, has - most)
            task.add_done_callback(lambda _: self._count(account, -has))

    def _enter(self, account: int, size: int) -> None:
        most, held, has = self._limits.max_held, self._held, self._of_account[account]
        if (held and held + size > most) or (has and has + size > most // 2):
            raise Unavailable(
                "Too many files are being read here. Nothing was charged; please try again.", retry_after=5
            )
        self._count(account, size)

    def _count(self, account: int, size: int) -> None:
        self._held += size
        self._of_account[account] += size
        if not self._of_account[account]:
            del self._of_account[account]

    async def _follow(self, url: str) -> Fetched:
        place = addresses.place(url)
        for _ in range(1 + MAX_REDIRECTS):
            fetched, location = await self._get(place)
            if fetched is not None:
                return fetched
            url = urljoin(f"{place.origin}{place.target.decode()}", location)
            further = addresses.place(url)
            if place.secure and not further.secure:
                raise BadUrl("redirects from https to http")
            place = further
        raise BadUrl(f"redirects more than {MAX_REDIRECTS} times")

    async def _get(self, place: Place) -> tuple[Fetched | None, str]:
        """What is there, or the location that it redirects to."""
        address = await self._address(place)
        limits = self._limits
        pool = self._connect(
            place,
            address,
            Limits(
                connect=limits.timeout,
                first_byte=limits.timeout,
                gap=limits.timeout,
                total=limits.timeout,
                max_connections=1,
                max_body=limits.max_bytes,
            ),
        )
        try:
            response = await pool.open(b"GET", place.target, [(b"accept", b"*/*")], b"")
            if response.status in _REDIRECTS:
                return None, (response.header(b"location") or b"").decode("latin-1")
            if response.status != 200:
                raise BadUrl(f"answers with status {response.status}")
            if int(response.header(b"content-length") or b"0") > limits.max_bytes:
                raise BadUrl(f"points to more than {limits.max_bytes:,} bytes")
            return await _read(response), ""
        finally:
            await pool.close()

    async def _address(self, place: Place) -> str:
        """The address to call: from the one look-up, and checked."""
        if self._hosts and place.host not in self._hosts:
            raise BadUrl("names a host that this gateway does not fetch from")
        try:
            found = await self._resolve(place.host, place.port)
        except OSError:
            found = ()
        if not found or not all(map(addresses.is_public, found)):
            raise BadUrl("names no host of the public internet")
        return found[0]

    def _pool(self, place: Place, address: str, limits: Limits) -> Pool:
        if place.secure and self._tls is None:
            self._tls = tls_context()
        return Pool(place.origin, limits, ssl_context=self._tls, address=address)


async def _read(response: Response) -> Fetched:
    named = (response.header(b"content-type") or b"").decode("latin-1").partition(";")[0].strip().lower()
    if named not in _UNKNOWN and not _is_media(named):
        raise BadUrl("points to something that is no picture, sound, film, PDF or plain text")
    data = await response.read()
    if named in _UNKNOWN:
        named = _type_of(data)
    return Fetched(named, data)


def _is_media(name: str) -> bool:
    return name in _TYPES or (name.startswith(_KINDS) and name not in _NOT_TYPES)


def _type_of(data: bytes) -> str:
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise BadUrl("points to something of which nobody says what it is")
