"""Fetching what strangers point to: real servers, fake look-ups. Faults J4 and G22."""

import asyncio
import itertools
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.upstream.bad_server import BadServer, Peer, Script, always, certificate, chunked, response, run

from tollbridge.core.addresses import Place, is_public, place
from tollbridge.errors import InvalidRequest, Unavailable
from tollbridge.upstream.fetch import AT_ONCE, AT_ONCE_OF_ACCOUNT, Fetched, Fetcher, FetchLimits, resolve
from tollbridge.upstream.pool import Limits, Pool

PUBLIC = "93.184.216.34"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
INSIDE = [
    *("127.0.0.1", "10.0.0.5", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *(
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
    ),
]


class World:
    """What names lead to, and a server that stands for every public address. `dialled` is what was connected to."""

    def __init__(self, server: BadServer, names: dict[str, list[Sequence[str]]], trust: ssl.SSLContext | None = None):
        self.dialled: list[tuple[str, str, int]] = []
        self.lookups: list[str] = []
        self._server = server
        self._names = {name: itertools.chain(answers, itertools.repeat(answers[-1])) for name, answers in names.items()}
        self._trust = trust

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.lookups.append(host)
        if host in self._names:
            return next(self._names[host])
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [host] if ":" in host or host[-1].isdigit() else ["127.0.0.1"]

    def connect(self, place: Place, address: str, limits: Limits) -> Pool:
        self.dialled.append((place.host, address, place.port))
        scheme = "https" if place.secure else "http"
        url = f"{scheme}://{place.host if ':' not in place.host else f'[{place.host}]'}:{self._server.port}"
        return Pool(url, limits, ssl_context=self._trust, address="127.0.0.1")

    def fetcher(self, limits: FetchLimits | None = None) -> Fetcher:
        return Fetcher(limits or FetchLimits(), resolve=self.resolve, connect=self.connect)


def trial(
    script: Script,
    use: Callable[[World], Awaitable[None]],
    *,
    names: dict[str, list[Sequence[str]]] | None = None,
    tls: ssl.SSLContext | None = None,
    trust: ssl.SSLContext | None = None,
) -> World:
    worlds = []

    async def main() -> None:
        async with BadServer(script, tls=tls) as server:
            worlds.append(World(server, names or {"files.example": [[PUBLIC]]}, trust))
            await use(worlds[0])

    run("uvloop", main())
    return worlds[0]


def picture(data: bytes = PNG, kind: bytes = b"image/png") -> Script:
    return always(response(body=data, headers=[(b"Content-Type", kind), (b"Content-Length", b"%d" % len(data))]))


def sends_on(location: bytes, status: int = 302) -> Script:
    return always(response(status, headers=[(b"Location", location), (b"Content-Length", b"0")]))


def gives(expected: Fetched, url: str = "http://files.example/a.png") -> Callable[[World], Awaitable[None]]:
    async def use(world: World) -> None:
        assert await world.fetcher().fetch(url, 1) == expected

    return use


def refuses(
    words: str, url: str = "http://files.example/a.png", limits: FetchLimits | None = None
) -> Callable[[World], Awaitable[None]]:
    async def use(world: World) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await world.fetcher(limits).fetch(url, 1, "messages[0].content[1].image_url.url")
        assert words in caught.value.message
        assert caught.value.param == "messages[0].content[1].image_url.url"
        assert not any(inside in caught.value.message for inside in (*INSIDE, "files.example"))

    return use


def test_picture_is_fetched_from_the_address_that_was_judged() -> None:
    asked = []

    async def script(peer: Peer) -> None:
        asked.append(await peer.request())
        await peer.send(response(body=PNG, headers=[(b"Content-Type", b"Image/PNG; a=b"), (b"Content-Length", b"108")]))

    world = trial(script, gives(Fetched("image/png", PNG), "http://files.example/a%20b.png?x=ü#there"))
    assert world.dialled == [("files.example", PUBLIC, 80)]
    assert world.lookups == ["files.example"]
    [request] = asked
    assert (request.method, request.target) == (b"GET", b"/a%20b.png?x=%C3%BC")
    assert not {b"authorization", b"cookie", b"referer"} & set(request.headers)


def test_nobody_is_asked_again_where_the_host_is_when_it_is_called() -> None:
    async def main() -> None:
        async with BadServer(picture()) as server:
            there = Place(secure=False, host="files.invalid", port=server.port, target=b"/a.png")
            pool = Fetcher(FetchLimits())._pool(there, "127.0.0.1", Limits())
            response = await pool.open(b"GET", there.target, [], b"")
            assert await response.read() == PNG
            await pool.close()

    run("uvloop", main())


def test_certificate_is_that_of_the_name(tmp_path: Path) -> None:
    made = certificate(tmp_path, "files.example")
    trust = ssl.create_default_context(cafile=made.authority)
    names: dict[str, list[Sequence[str]]] = {"files.example": [[PUBLIC]], "other.example": [[PUBLIC]]}
    url = "https://files.example/a.png"
    trial(picture(), gives(Fetched("image/png", PNG), url), names=names, tls=made.server, trust=trust)
    wrong = refuses("cannot be reached", "https://other.example/a.png")
    trial(picture(), wrong, names=names, tls=made.server, trust=trust)


def test_certificates_are_read_once_for_all_fetches() -> None:
    """That takes 20 ms, in which nobody else is served."""
    fetcher = Fetcher(FetchLimits())
    first, second = (fetcher._pool(place(f"https://{host}.example/"), PUBLIC, Limits()) for host in ("a", "b"))
    assert first._context is second._context is not None


@pytest.mark.parametrize("inside", INSIDE)
def test_host_that_leads_inside_is_never_connected_to(inside: str) -> None:
    for found in ([inside], [PUBLIC, inside], [inside, PUBLIC]):
        world = trial(picture(), refuses("no host of the public internet"), names={"files.example": [found]})
        assert world.dialled == []


def test_name_that_leads_inside_reads_like_one_that_leads_nowhere() -> None:
    said = set()

    async def use(world: World) -> None:
        for host in ("inside.example", "nowhere.invalid"):
            with pytest.raises(InvalidRequest) as caught:
                await world.fetcher().fetch(f"http://{host}/", 1)
            said.add(caught.value.message)

    trial(picture(), use, names={"inside.example": [["10.0.0.5"]]})
    assert len(said) == 1


@pytest.mark.parametrize("inside", INSIDE)
def test_name_that_leads_elsewhere_when_asked_again_is_not_asked_again(inside: str) -> None:
    """DNS rebinding: public when judged, inside when connected to."""
    world = trial(picture(), gives(Fetched("image/png", PNG)), names={"files.example": [[PUBLIC], [inside]]})
    assert world.lookups == ["files.example"]
    assert world.dialled == [("files.example", PUBLIC, 80)]


@pytest.mark.parametrize("inside", INSIDE)
def test_redirect_that_leads_inside_is_not_followed(inside: str) -> None:
    host = f"[{inside}]" if ":" in inside else inside
    for location in (f"http://{host}/x", "http://inside.example/x", f"//{host}/x"):
        names: dict[str, list[Sequence[str]]] = {"files.example": [[PUBLIC]], "inside.example": [[inside]]}
        world = trial(sends_on(location.encode()), refuses("cannot be fetched"), names=names)
        assert all(is_public(address) for _, address, _ in world.dialled)
        assert len(world.dialled) == 1


def test_redirect_to_the_same_name_is_looked_up_anew() -> None:
    names: dict[str, list[Sequence[str]]] = {"files.example": [[PUBLIC], ["169.254.169.254"]]}
    world = trial(sends_on(b"/again"), refuses("no host of the public internet"), names=names)
    assert world.dialled == [("files.example", PUBLIC, 80)]
    assert world.lookups == ["files.example"] * 2


@pytest.mark.parametrize(
    "location",
    [
        *(b"file:///etc/passwd", b"gopher://files.example/", b"http://files.example:22/", b"http://a@files.example/"),
        *(b"http://2130706433/", b"http://0x7f.1/", b"http://[::1]/", b"http://localhost/", b"\\\\files.example\\x"),
    ],
)
def test_redirect_is_a_url_like_any_other(location: bytes) -> None:
    world = trial(sends_on(location), refuses("cannot be fetched"))
    assert len(world.dialled) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed_and_a_fourth_is_not(status: int) -> None:
    def after(count: int) -> Script:
        async def script(peer: Peer) -> None:
            request = await peer.request()
            hop = int(request.target.lstrip(b"/") or b"0")
            if hop < count:
                location = [(b"Location", b"/%d" % (hop + 1)), (b"Content-Length", b"0")]
                await peer.send(response(status, headers=location))
            else:
                await peer.send(chunk_of(PNG))

        return script

    trial(after(3), gives(Fetched("image/png", PNG), "http://files.example/"))
    trial(after(4), refuses("more than 3 times", "http://files.example/"))


def chunk_of(data: bytes) -> bytes:
    return chunked(data).replace(b"text/event-stream", b"image/png")


def test_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    made = certificate(tmp_path, "files.example")
    trust = ssl.create_default_context(cafile=made.authority)
    use = refuses("from https to http", "https://files.example/")
    world = trial(sends_on(b"http://files.example/"), use, tls=made.server, trust=trust)
    assert len(world.dialled) == 1


def test_size_is_capped_whether_it_is_announced_or_not() -> None:
    limits = FetchLimits(max_bytes=1000)
    trial(picture(bytes(1001)), refuses("more than 1,000 bytes", limits=limits))
    trial(always(chunk_of(bytes(1001))), refuses("at most 1,000 bytes", limits=limits))
    trial(always(chunk_of(bytes(50_000_000))), refuses("at most 1,000 bytes", limits=limits))


def test_time_is_capped_over_all_of_it() -> None:
    async def drips(peer: Peer) -> None:
        await peer.request()
        await peer.send(response(headers=[(b"Content-Type", b"image/png"), (b"Content-Length", b"1000")]))
        while True:
            await peer.send(b"x")
            await asyncio.sleep(0.02)

    trial(drips, refuses("within 0.2 s", limits=FetchLimits(timeout=0.2)))

    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(10)
        return []

    async def main() -> None:
        with pytest.raises(InvalidRequest):
            await Fetcher(FetchLimits(timeout=0.05), resolve=slow).fetch("http://files.example/", 1)

    run("uvloop", main())


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (b"image/jpeg", b"x", "image/jpeg"),
        (b"audio/mpeg", b"x", "audio/mpeg"),
        (b"video/mp4", b"x", "video/mp4"),
        (b"application/pdf", b"x", "application/pdf"),
        (b"text/plain; charset=utf-8", b"x", "text/plain"),
        (b"application/octet-stream", PNG, "image/png"),
        (b"", b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"binary/octet-stream", b"GIF89a..", "image/gif"),
        (b"", b"%PDF-1.7", "application/pdf"),
        (b"", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_media_that_models_read_are_fetched(kind: bytes, data: bytes, expected: str) -> None:
    trial(picture(data, kind), gives(Fetched(expected, data)))


@pytest.mark.parametrize(
    "kind", [b"text/html", b"application/json", b"image/svg+xml", b"application/x-sh", b"application/octet-stream", b""]
)
def test_what_is_no_medium_is_refused(kind: bytes) -> None:
    trial(picture(b"<html>root:x:0:0</html>", kind), refuses("points to something"))


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500])
def test_answer_that_is_no_200_is_refused(status: int) -> None:
    trial(always(response(status, headers=[(b"Content-Length", b"0")])), refuses(f"status {status}"))


def test_compressed_and_senseless_answers_are_refused() -> None:
    squeezed = response(body=b"\x1f\x8b", headers=[(b"Content-Encoding", b"gzip"), (b"Content-Length", b"2")])
    trial(always(squeezed), refuses("no plain answer"))
    trial(always(b"SSH-2.0-OpenSSH_9.6\r\n"), refuses("no plain answer"))


def test_only_hosts_that_the_operator_named_are_fetched_from() -> None:
    limits = FetchLimits(hosts=("other.example",))
    world = trial(picture(), refuses("does not fetch from", limits=limits))
    assert not world.dialled
    assert not world.lookups

    async def named(world: World) -> None:
        limits = FetchLimits(hosts=("Files.Example",))
        assert (await world.fetcher(limits).fetch("http://FILES.example./a.png", 1)).data == PNG

    trial(picture(), named)


def test_when_one_of_several_cannot_be_fetched_the_others_are_given_up() -> None:
    begun, given_up = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        if (await peer.request()).target == b"/missing.png":
            await begun.wait()
            await peer.send(response(404, headers=[(b"Content-Length", b"0")]))
        else:
            begun.set()
            await peer.closed()
            given_up.set()

    async def use(world: World) -> None:
        urls = [f"http://files.example/{name}.png" for name in ("endless", "missing")]
        with pytest.raises(InvalidRequest, match="status 404"):
            await world.fetcher().fetch_all(urls, 1)
        async with asyncio.timeout(5):
            await given_up.wait()

    trial(script, use)


def test_what_the_urls_of_a_request_point_to_is_capped_together() -> None:
    async def use(world: World) -> None:
        urls = [f"http://files.example/{number}" for number in range(3)]
        fetcher = world.fetcher(FetchLimits(max_bytes=3 * len(PNG)))
        assert [each.data for each in await fetcher.fetch_all(urls, 1)] == [PNG] * 3
        fetcher = world.fetcher(FetchLimits(max_bytes=3 * len(PNG) - 1))
        with pytest.raises(InvalidRequest, match=f"more than {3 * len(PNG) - 1} bytes together") as refused:
            await fetcher.fetch_all(urls, 1, "messages")
        assert (refused.value.code, refused.value.param) == ("invalid_url", "messages")

    trial(picture(PNG), use)


def test_what_running_calls_had_fetched_is_bounded_and_one_account_has_half_of_it() -> None:
    size = len(PNG)

    async def use(world: World) -> None:
        fetcher = world.fetcher(FetchLimits(max_bytes=2 * size, max_held=7 * size))
        end = asyncio.Event()
        running: list[asyncio.Task[None]] = []

        async def begin(account: int) -> None:
            """A call that has fetched a picture and goes on."""
            fetched = asyncio.Event()

            async def call() -> None:
                await fetcher.fetch_all(["http://files.example/a.png"], account)
                fetched.set()
                await end.wait()

            task = asyncio.create_task(call())
            waiting = asyncio.create_task(fetched.wait())
            await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if task.done():
                await task
            running.append(task)

        for _ in range(10):  # what cannot be fetched takes no room
            with pytest.raises(InvalidRequest):
                await fetcher.fetch_all(["http://nowhere.invalid/"], 1)
        for account in (1, 1):
            await begin(account)
        with pytest.raises(Unavailable, match="Nothing was charged"):
            await begin(1)
        for account in (2, 2, 3, 4):
            await begin(account)
        with pytest.raises(Unavailable, match="Nothing was charged"):
            await begin(5)
        assert await fetcher.fetch_all([], 5) == []
        end.set()
        await asyncio.gather(*running)
        for account in (1, 1, 2, 2, 3, 4):
            await begin(account)

    trial(picture(PNG), use)


def test_no_more_than_so_many_run_at_once() -> None:
    running = most = 0
    full = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal running, most
        await peer.request()
        running += 1
        most = max(most, running)
        if most >= AT_ONCE:
            full.set()
        await full.wait()
        await asyncio.sleep(0.02)  # what should have waited comes now
        running -= 1
        await peer.send(chunk_of(PNG))

    async def use(world: World) -> None:
        fetcher = world.fetcher()
        await asyncio.gather(*(fetcher.fetch("http://files.example/", account) for account in range(AT_ONCE * 2)))

    trial(script, use)
    assert most == AT_ONCE


def test_one_account_has_a_share_so_that_slow_servers_of_its_choice_keep_nobody_else_waiting() -> None:
    slow, others = asyncio.Event(), 0

    async def script(peer: Peer) -> None:
        nonlocal others
        if b"/slow" in await peer.request():
            await slow.wait()
        else:
            others += 1
        await peer.send(chunk_of(PNG))

    async def use(world: World) -> None:
        fetcher = world.fetcher()
        waiting = [asyncio.ensure_future(fetcher.fetch("http://files.example/slow", 1)) for _ in range(AT_ONCE * 2)]
        await asyncio.gather(*(fetcher.fetch("http://files.example/", account) for account in range(2, 20)))
        assert (len(world.dialled), others) == (AT_ONCE_OF_ACCOUNT + 18, 18)
        slow.set()
        await asyncio.gather(*waiting)

    trial(script, use)


def test_nothing_inside_is_connected_to_however_it_is_written() -> None:
    """G22: what names, addresses and redirects can be made of, a few hundred times."""
    chance = random.Random(22)
    forms = [
        *("http://{0}/", "https://{0}/x.png", "http://{0}:80/", "https://{0}:443/", "http://{0}:8080/", "//{0}/"),
        *("http://user@{0}/", "http://files.example@{0}/", "http://{0}#@files.example/", "http://{0}\\@files.example/"),
        *("http://files.example\\@{0}/", "http://{0}%2f@files.example/", "http://{0}?x@files.example/", "ftp://{0}/"),
    ]
    hosts = [
        *("127.0.0.1", "127.1", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "0x7f000001", "017700000001", "localhost"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[fe80::1%25lo]"),
        *("169.254.169.254", "[fd00:ec2::254]", "0", "0.0.0.0", "127。0。0。1", "１２７.０.０.１", "①②⑦.0.0.1"),
        *("localhost.", "LOCALHOST", "inside.example", "rebinding.example", "mixed.example", "127.0.0.1.", "10.1.2.3"),
    ]
    urls = [form.format(host) for form in forms for host in hosts]
    assert len(urls) >= 300

    def names() -> dict[str, list[Sequence[str]]]:
        return {
            "files.example": [[PUBLIC]],
            "inside.example": [[chance.choice(INSIDE)]],
            "rebinding.example": [[PUBLIC], ["127.0.0.1"]],
            "mixed.example": [[PUBLIC, "10.0.0.1"]],
        }

    async def redirecting(peer: Peer) -> None:
        while True:
            request = await peer.request()
            index = request.target.removeprefix(b"/r/")
            location = urls[int(index)].encode() if index.isdigit() else b"http://rebinding.example/"
            await peer.send(response(302, headers=[(b"Location", location), (b"Content-Length", b"0")]))

    async def use(world: World) -> None:
        for number, url in enumerate(urls):
            world._names = {name: itertools.chain(a, itertools.repeat(a[-1])) for name, a in names().items()}
            for each in (url, f"http://files.example/r/{number}"):
                with pytest.raises(InvalidRequest):
                    await world.fetcher(FetchLimits(timeout=0.3)).fetch(
                        each, 1
                    )  # TLS to a server that speaks none waits

    world = trial(redirecting, use, names=names())
    assert {address for _, address, _ in world.dialled} == {PUBLIC}
    assert {port for _, _, port in world.dialled} <= {80, 443}


def test_hosts_are_looked_up_and_addresses_are_what_they_are() -> None:
    async def main() -> None:
        assert "127.0.0.1" in await resolve("localhost", 80)
        assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]
        assert await resolve("::1", 80) == ["::1"]
        with pytest.raises(OSError):
            await resolve("nowhere.invalid", 80)
        with pytest.raises(InvalidRequest, match="no host of the public internet"):
            await Fetcher(FetchLimits()).fetch("http://localhost/", 1)

    run("uvloop", main())
