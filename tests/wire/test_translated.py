"""What an answer of another dialect says of itself to the gateway."""

import pytest
from tests.wire.streams import CREATED, ID, MODEL, Text

from tollbridge.values import Usage
from tollbridge.wire import conversation, openai_chat
from tollbridge.wire.conversation import Choice, Image, Refusal, Reply, Thinking, ToolCall
from tollbridge.wire.exchange import Names
from tollbridge.wire.openai_chat_client import ChatClient
from tollbridge.wire.openai_chat_provider import OpenAiChat
from tollbridge.wire.translated import TranslatedAnswer, TranslatedStream

NAMES = Names(id=ID, model=MODEL, created=CREATED)
REQUEST = openai_chat.parse(b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}')


def answered(*choices: Choice) -> TranslatedAnswer:
    reply = Reply(choices=choices, usage=Usage(input=1, output=2), reported=b"{}")
    return TranslatedAnswer(ChatClient(), REQUEST, NAMES, reply)


def test_all_that_was_produced_is_counted() -> None:
    said = (
        Thinking(text="Hm"),
        conversation.Text(text="Hi"),
        Image(data="AAAA"),
        ToolCall(id="c", name="f", arguments='{"a":1}'),
    )
    answer = answered(
        Choice(parts=said, reason="stop", native="end"),
        Choice(parts=(Refusal(text="No"), Image(data="AAAA")), reason="refused", native="x"),
    )
    assert answer.text() == b'Hm\nHi\nf\n{"a":1}\nNo'
    assert (answer.pictures(), answer.finish, answer.reported) == (2, "stop", b"{}")


@pytest.mark.parametrize("choices", [(), (Choice(parts=(), reason="stop"),)])
def test_a_reason_that_nobody_gave_is_none(choices: tuple[Choice, ...]) -> None:
    assert answered(*choices).finish is None


def streamed(choices: int) -> TranslatedStream:
    return TranslatedStream(OpenAiChat().reader(), ChatClient().writer(REQUEST, NAMES), choices, Text())


def chunk(index: int, finish: str) -> bytes:
    return b'data: {"choices":[{"index":%d,"delta":{"content":"a"},"finish_reason":%b}]}\n\n' % (index, finish.encode())


def test_a_stream_is_complete_when_each_choice_has_ended_or_it_was_stopped() -> None:
    stream = streamed(2)
    told = []
    for piece in (chunk(0, "null"), chunk(1, '"stop"'), chunk(0, '"length"')):
        stream.feed(piece)
        told.append((stream.complete, stream.finish))
    assert told == [(False, None), (False, None), (True, "length")]
    assert stream.feed(b"data: [DONE]\n\n") == b""
    assert stream.done

    stream = streamed(2)
    stream.feed(chunk(1, '"stop"'))
    assert not stream.complete
    stream.stop("Your credit is used up.")
    assert (stream.complete, stream.done, stream.finish) == (True, False, "length")
    assert stream.feed(chunk(0, "null")) == b""
    assert stream.end(None).count(b'"finish_reason":"length"') == 1
