"""The official Python client, unchanged: the calls of the published documentation and what else people do with it."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.gateway.site import Site, always, by_kind, chat, chunk, completion, event, run, says, stream, streams

from tollbridge.edge.demo import DemoProvider

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


async def with_client(site: Site, use: Callable[[openai.OpenAI], Any], **options: Any) -> Any:
    """Run `use` with the ordinary synchronous client, in a thread beside the site's loop."""

    def call() -> Any:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key=site.key, **options) as client:
            return use(client)

    return await asyncio.get_running_loop().run_in_executor(None, call)


def test_chat() -> None:
    async def test() -> None:
        async with Site(always(says(completion("Hello from upstream")))) as site:

            def use(client: openai.OpenAI) -> Any:
                return client.chat.completions.create(
                    model="m",
                    messages=[
                        {"role": "system", "content": "You are a helpful assistant."},
                        {"role": "user", "content": "Explain quantum computing in 3 sentences."},
                    ],
                    temperature=0.7,
                    max_tokens=500,
                )

            answer = await with_client(site, use)
            assert answer.choices[0].message.content == "Hello from upstream"
            assert answer.usage.total_tokens == 15
            assert answer.usage.cost > 0

    run(test())


def test_published_streaming_loop_reads_every_chunk() -> None:
    async def test() -> None:
        async with Site(always(streams(stream()))) as site:

            def use(client: openai.OpenAI) -> str:
                said = ""
                answer = client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "Tell me a story."}], stream=True
                )
                for part in answer:
                    if part.choices[0].delta.content:
                        said += part.choices[0].delta.content
                return said

            assert await with_client(site, use) == "Hello!"

    run(test())


def test_stream_with_usage_asked_for_ends_with_it() -> None:
    async def test() -> None:
        async with Site(always(streams(stream()))) as site:

            def use(client: openai.OpenAI) -> Any:
                return list(
                    client.chat.completions.create(
                        model="m",
                        messages=[{"role": "user", "content": "Hi"}],
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                )

            parts = await with_client(site, use)
            assert parts[-1].choices == []
            assert parts[-1].usage.completion_tokens == 5
            assert all(part.usage is None for part in parts[:-1])

    run(test())


def test_tools_are_passed_on_and_streamed_calls_come_whole() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": part}} for part in ('{"ci', 'ty":"', 'Köln"}')]
    events = [
        chunk(choices=[{"index": 0, "delta": {"tool_calls": [each]}, "finish_reason": None}]) for each in [call, *more]
    ]
    events += [chunk(finish="tool_calls"), event(b"[DONE]")]

    async def test() -> None:
        async with Site(always(streams(events))) as site:

            def use(client: openai.OpenAI) -> Any:
                with client.chat.completions.stream(
                    model="m",
                    messages=[{"role": "user", "content": "Weather in Köln?"}],
                    tools=[TOOL],  # type: ignore[list-item]
                ) as answer:
                    answer.until_done()
                    return answer.get_final_completion()

            answer = await with_client(site, use)
            [made] = answer.choices[0].message.tool_calls
            assert made.function.name == "weather"
            assert made.function.arguments == '{"city":"Köln"}'

    run(test())


def test_embeddings_decode_to_the_same_floats() -> None:
    async def test() -> None:
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0]}]
        answer = {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2}}
        async with Site(always(says(answer))) as site:

            def use(client: openai.OpenAI) -> Any:
                return client.embeddings.create(model="e", input="The food was delicious")

            got = await with_client(site, use)
            assert got.data[0].embedding == [0.25, -0.5, 1.0]
            assert got.usage.prompt_tokens == 2

    run(test())


def test_models_are_listed_and_found_whatever_their_name() -> None:
    config = """
[[models]]
id = "vendor/some-model"
price = { input = "1", output = "1" }
routes = [{ provider = "up", model = "x" }]
"""

    async def test() -> None:
        async with Site(always(says(completion())), config=config) as site:
            listed = await with_client(site, lambda client: [model.id for model in client.models.list()])
            assert {"m", "e", "vendor/some-model"} <= set(listed)
            found = await with_client(site, lambda client: client.models.retrieve("vendor/some-model"))
            assert found.id == "vendor/some-model"

    run(test())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "none"}, openai.NotFoundError),
        ({"temperature": 3}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own_classes(change: dict[str, Any], expected: type[openai.APIStatusError]) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            body = {**chat(), **change}
            with pytest.raises(expected) as caught:
                await with_client(site, lambda client: client.chat.completions.create(**body))
            assert caught.value.request_id is not None
            assert caught.value.code is not None

    run(test())


def test_wrong_key_and_empty_balance_have_their_own_errors() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), credit_usd="0") as site:
            create = functools.partial(_create, max_retries=0)
            with pytest.raises(openai.APIStatusError) as poor:
                await with_client(site, create)
            assert poor.value.status_code == 402
            assert poor.value.code == "insufficient_credits"
            site.key = "wrong"
            with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
                await with_client(site, create)

    run(test())


def _create(client: openai.OpenAI, max_retries: int) -> Any:
    return client.with_options(max_retries=max_retries).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}]
    )


def test_clients_own_retry_reaches_the_answer_after_a_failure() -> None:
    failures = [503, 503, 503]

    async def answer(request: Any, peer: Any) -> None:
        if failures:
            await says({"error": {"message": "busy"}}, failures.pop())(request, peer)
        else:
            await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer)) as site:
            got = await with_client(site, functools.partial(_create, max_retries=2))
            assert got.choices[0].message.content == "Hello!"
            rows = await site.settled(2)
            assert [row["charge"] > 0 for row in rows] == [False, True]

    run(test())


def test_broken_stream_is_an_error_and_not_a_short_answer() -> None:
    async def test() -> None:
        async with Site(always(by_kind(says(completion()), streams([chunk("Hel"), chunk("lo")])))) as site:

            def use(client: openai.OpenAI) -> None:
                for _ in client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
                ):
                    pass

            with pytest.raises(openai.APIError):
                await with_client(site, use)
            [row] = await site.settled(1)
            assert row["charge"] == 0

    run(test())


def test_demo_provider_answers_the_published_calls() -> None:
    async def test() -> None:
        demo = DemoProvider()
        await demo.start()

        def call() -> tuple[Any, int, Any]:
            with openai.OpenAI(base_url=demo.base_url, api_key="none") as client:
                whole = client.chat.completions.create(model="x", messages=[{"role": "user", "content": "Hi"}])
                parts = list(
                    client.chat.completions.create(
                        model="x", messages=[{"role": "user", "content": "Hi"}], stream=True, max_tokens=3
                    )
                )
                vectors = client.embeddings.create(model="x", input=["a", "b"], dimensions=8)
                return whole, len(parts), vectors

        try:
            whole, parts, vectors = await asyncio.get_running_loop().run_in_executor(None, call)
        finally:
            await demo.stop()
        assert "demo provider" in whole.choices[0].message.content
        assert parts == 5
        assert [len(each.embedding) for each in vectors.data] == [8, 8]

    run(test())
