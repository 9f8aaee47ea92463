"""Streams that fall silent."""

import asyncio

from tests.gateway.site import STREAM_HEAD, Site, always, chat, chunk, framed, run, stream
from tests.upstream.bad_server import Peer, Request

from tollbridge.gateway.streams import KEEP_ALIVE, Timing

TIMING = Timing(tick=0.02, keep_alive=0.8)


def test_a_comment_comes_when_a_stream_is_silent_and_not_while_it_flows() -> None:
    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        await asyncio.sleep(1.0)
        for _ in range(50):
            await peer.send(framed(chunk("word ")))
            await asyncio.sleep(0.025)
        await asyncio.sleep(1.0)
        for each in stream(["end"]):
            await peer.send(framed(each))
        await peer.send(b"0\r\n\r\n")

    async def test() -> None:
        async with Site(always(answer), timing=TIMING) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.text == "word " * 50 + "end"
            before, *flowing, after = reply.body.split(b"word ")
            assert KEEP_ALIVE in before
            assert not any(KEEP_ALIVE in each for each in flowing)
            assert KEEP_ALIVE in after
            await site.settled(1)

    run(test())
