"""What Gemini is sent, after https://ai.google.dev/api/generate-content."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.wire.streams import route

from tollbridge.errors import UnsupportedField
from tollbridge.wire.conversation import (
    Audio,
    Conversation,
    Document,
    Format,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tollbridge.wire.exchange import Outgoing
from tollbridge.wire.gemini_provider import GeminiProvider

FLASH = "gemini-2.5-flash"
THREE = "gemini-3-flash-preview"
HELLO = Turn(role="user", parts=(Text(text="Hello"),))
Json = dict[str, Any]


def user(*parts: Part) -> Turn:
    return Turn(role="user", parts=parts)


def model(*parts: Part) -> Turn:
    return Turn(role="assistant", parts=parts)


def tool(*parts: Part) -> Turn:
    return Turn(role="tool", parts=parts)


def call(identity: str, name: str = "f", arguments: str = "{}", **more: Any) -> ToolCall:
    return ToolCall(id=identity, name=name, arguments=arguments, **more)


def outgoing(
    *turns: Turn, to: str = FLASH, limit: int | None = None, row: Json | None = None, **fields: Any
) -> Outgoing:
    conversation = Conversation(origin="openai_chat", turns=turns or (HELLO,), **fields)
    return GeminiProvider().outgoing(conversation, route(upstream_model=to, dialect="gemini", **(row or {})), limit)


def sent(*turns: Turn, to: str = FLASH, limit: int | None = None, **fields: Any) -> Json:
    body: Json = json.loads(outgoing(*turns, to=to, limit=limit, **fields).body)
    return body


def contents(*turns: Turn, to: str = FLASH, **fields: Any) -> list[Json]:
    found: list[Json] = sent(*turns, to=to, **fields)["contents"]
    return found


def config(to: str = FLASH, limit: int | None = None, **fields: Any) -> Json:
    found: Json = sent(to=to, limit=limit, **fields).get("generationConfig", {})
    return found


def refused(*turns: Turn, to: str = FLASH, **fields: Any) -> str:
    """The field that the refusal names, and what is noted instead where it may be left out."""
    with pytest.raises(UnsupportedField) as caught:
        outgoing(*turns, to=to, **fields)
    param = caught.value.param
    assert param is not None
    assert outgoing(*turns, to=to, lenient=True, **fields).dropped == (param,)
    return param


# --- Where ---


def test_the_model_stands_in_the_target() -> None:
    assert outgoing().target == b"/models/gemini-2.5-flash:generateContent"
    assert outgoing(stream=True).target == b"/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert outgoing(to="odd name/x").target == b"/models/odd%20name%2Fx:generateContent"


def test_a_row_may_have_other_targets_and_members_for_every_body() -> None:
    row = {
        "paths": (("chat", "/p/{model}:generateContent"), ("stream", "/p/{model}:s?alt=sse")),
        "adds": (("safetySettings", '[{"category":"X"}]'),),
    }
    assert outgoing(row=row).target == b"/p/gemini-2.5-flash:generateContent"
    streamed = outgoing(row=row, stream=True)
    assert streamed.target == b"/p/gemini-2.5-flash:s?alt=sse"
    assert json.loads(streamed.body)["safetySettings"] == [{"category": "X"}]


# --- What is said ---


def test_a_plain_request_has_nothing_that_the_caller_did_not_say() -> None:
    assert sent() == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def test_system_messages_become_the_instruction_also_from_the_middle() -> None:
    body = sent(
        Turn(role="system", parts=(Text(text="Be brief."), Text(text=""))),
        HELLO,
        model(Text(text="Hi")),
        Turn(role="developer", parts=(Text(text="Speak French."),)),
        user(Text(text="Again")),
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Speak French."}]}
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]


def test_system_messages_after_the_model_s_last_words_are_what_gemini_answers() -> None:
    ask = Turn(role="developer", parts=(Text(text="Ask."),))
    body = sent(Turn(role="system", parts=(Text(text="Be brief."),)), HELLO, model(Text(text="Hi")), ask)
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert body["contents"][1:] == [
        {"role": "model", "parts": [{"text": "Hi"}]},
        {"role": "user", "parts": [{"text": "Ask."}]},
    ]


@pytest.mark.parametrize(
    ("to", "is_told"),
    [
        ("gemini-2.5-flash", False),
        ("gemini-3-pro-preview", False),
        ("gemini-3.1-pro-preview", False),
        ("gemma-3-27b-it", False),
        ("gemini-3.5-flash", True),
        ("gemini-flash-latest", True),
    ],
)
def test_models_that_only_answer_a_user_are_told_to_continue(to: str, is_told: bool) -> None:
    more = [{"role": "user", "parts": [{"text": "Continue."}]}] if is_told else []
    assert contents(HELLO, model(Text(text="Thought:")), to=to)[1:] == [
        {"role": "model", "parts": [{"text": "Thought:"}]},
        *more,
    ]


def test_a_system_message_alone_is_what_gemini_answers() -> None:
    assert sent(Turn(role="system", parts=(Text(text="Go"),))) == {
        "contents": [{"role": "user", "parts": [{"text": "Go"}]}]
    }


def test_neighbours_of_one_side_become_one() -> None:
    assert contents(HELLO, HELLO, model(Text(text="a")), model(Refusal(text="no")), user(Text(text=""))) == [
        {"role": "user", "parts": [{"text": "Hello"}, {"text": "Hello"}]},
        {"role": "model", "parts": [{"text": "a"}, {"text": "no"}]},
        {"role": "user", "parts": [{"text": ""}]},
    ]


def test_pictures_documents_and_sound_are_inline() -> None:
    parts = (
        Image(data="iVBOR", media_type="image/png", detail="high"),
        Document(data="JVBER", media_type="application/pdf", title="t.pdf"),
        Document(text="plain words", title="notes"),
        Audio(data="UklG", format="wav"),
        Audio(data="SUQz", format="mp3"),
    )
    assert contents(user(*parts))[0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBER"}},
        {"text": "notes\n\nplain words"},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklG"}},
        {"inlineData": {"mimeType": "audio/mp3", "data": "SUQz"}},
    ]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Image(url="https://example.com/a/b.PNG?x=1"), "image/png"),
        (Image(url="https://example.com/a", media_type="image/webp"), "image/webp"),
        (Document(url="https://example.com/paper.v2.pdf#page=2"), "application/pdf"),
        (Image(url="https://storage.googleapis.com/public/a.png"), "image/png"),
    ],
)
def test_addresses_of_a_known_kind_are_passed_on(part: Image | Document, kind: str) -> None:
    assert contents(user(part))[0]["parts"] == [{"fileData": {"mimeType": kind, "fileUri": part.url}}]


@pytest.mark.parametrize(
    ("part", "to"),
    [
        (Image(url="https://example.com/picture"), FLASH),
        (Image(url="https://example.png"), FLASH),
        (Image(url="http://example.com/a.png"), FLASH),
        (Image(url="gs://the-operator-s/a.png", media_type="image/png"), FLASH),
        (Image(url="https://generativelanguage.googleapis.com/v1beta/files/a", media_type="image/png"), FLASH),
        (Image(url="https://x@GenerativeLanguage.googleapis.com:443/a.png"), FLASH),
        (Image(url="https://example.com/a.png"), "gemini-2.0-flash"),
        (Document(data="JVBER"), FLASH),
        (Audio(data="x", format="speex"), FLASH),
        (ToolResult(id="never-called"), FLASH),
    ],
)
def test_what_gemini_cannot_read_is_refused(part: Part, to: str) -> None:
    turn = tool(part) if isinstance(part, ToolResult) else user(part)
    assert refused(turn, to=to) == "turns"


def test_parts_that_nobody_else_knows_are_refused_by_their_place() -> None:
    opaque = Opaque(origin="openai_chat", json=Raw(b"{}"), param="messages[0].content[1]")
    assert refused(user(opaque)) == "messages[0].content[1]"


# --- Tools ---


def test_calls_and_their_results() -> None:
    turns = (
        HELLO,
        model(
            Text(text="Looking"),
            call("call_1", "weather", '{ "city": "Zürich", "big": 12345678901234567890 }'),
            call("b"),
        ),
        tool(ToolResult(id="b", parts=(Text(text="x"), Text(text="y")), is_error=True)),
        tool(ToolResult(id="call_1", parts=(Text(text='{"degrees": 7}'),))),
        user(Text(text="And?")),
    )
    raw = outgoing(*turns).body
    assert b'"args":{ "city": "Z\xc3\xbcrich", "big": 12345678901234567890 }' in raw
    first, said, results, last = contents(*turns)
    assert first["role"] == last["role"] == results["role"] == "user"
    assert [list(part) for part in said["parts"]] == [["text"], ["functionCall"], ["functionCall"]]
    assert said["parts"][2]["functionCall"] == {"name": "f", "args": {}, "id": "b"}
    assert results["parts"] == [
        {"functionResponse": {"name": "f", "response": {"error": "x\ny"}, "id": "b"}},
        {"functionResponse": {"name": "weather", "response": {"output": '{"degrees": 7}'}, "id": "call_1"}},
    ]


def test_ids_that_were_made_here_stay_here() -> None:
    _, said, results = contents(
        HELLO, model(call("call_gemini_00ff")), tool(ToolResult(id="call_gemini_00ff", parts=(Text(text="x"),)))
    )
    assert "id" not in said["parts"][0]["functionCall"]
    assert results["parts"] == [{"functionResponse": {"name": "f", "response": {"output": "x"}}}]


@pytest.mark.parametrize("arguments", ["not json", "[1]", '{"a":', "7"])
def test_arguments_that_are_no_object_stay_as_text(arguments: str) -> None:
    assert contents(HELLO, model(call("a", arguments=arguments)))[1]["parts"][0]["functionCall"]["args"] == {
        "arguments": arguments
    }
    assert contents(HELLO, model(call("a", arguments=" ")))[1]["parts"][0]["functionCall"]["args"] == {}


def test_pictures_of_a_tool_stand_in_its_result_since_generation_3_and_beside_it_before() -> None:
    picture = Image(data="iVBOR", media_type="image/png")
    turns = (HELLO, model(call("a")), tool(ToolResult(id="a", parts=(picture,))))
    inline = {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}
    (result,) = contents(*turns, to=THREE)[2]["parts"]
    assert result["functionResponse"]["parts"] == [inline]
    assert contents(*turns)[2]["parts"][1:] == [inline]


def test_a_kind_of_file_that_gemini_reads_in_no_result_stands_beside_it() -> None:
    parts = (Image(data="iVBOR", media_type="image/png"), Document(data="YSxi", media_type="text/csv"))
    turns = (HELLO, model(call("a")), tool(ToolResult(id="a", parts=parts)))
    result, beside = contents(*turns, to=THREE)[2]["parts"]
    inline = {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}
    assert (result["functionResponse"]["parts"], beside["inlineData"]["mimeType"]) == ([inline], "text/csv")


def test_tools_are_declared_by_json_schema() -> None:
    schema = b'{"type":"object","properties":{"a":{"type":["string","null"]}},"additionalProperties":false}'
    tools = (Tool(name="a", description="does a", parameters=Raw(schema)), Tool(name="b"))
    result = outgoing(tools=tools)
    assert b'"parametersJsonSchema":' + schema in result.body
    assert json.loads(result.body)["tools"] == [
        {
            "functionDeclarations": [
                {"name": "a", "description": "does a", "parametersJsonSchema": json.loads(schema)},
                {"name": "b"},
            ]
        }
    ]
    assert "toolConfig" not in json.loads(result.body)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(mode="auto"), {"mode": "AUTO"}),
        (ToolChoice(mode="none"), {"mode": "NONE"}),
        (ToolChoice(mode="required"), {"mode": "ANY"}),
        (ToolChoice(mode="one", name="b"), {"mode": "ANY", "allowedFunctionNames": ["b"]}),
    ],
)
def test_the_choice_of_tools(choice: ToolChoice, expected: Json) -> None:
    body = sent(tools=(Tool(name="b"),), tool_choice=choice)
    assert body["toolConfig"] == {"functionCallingConfig": expected}


def test_a_strict_tool_has_calls_that_keep_to_its_schema() -> None:
    def mode(to: str = FLASH, **fields: Any) -> str:
        found: str = sent(to=to, tools=(Tool(name="a"), Tool(name="b", strict=True)), **fields)["toolConfig"][
            "functionCallingConfig"
        ]["mode"]
        return found

    assert mode() == mode(tool_choice=ToolChoice(mode="auto")) == mode(to=THREE) == "VALIDATED"
    assert mode(tool_choice=ToolChoice(mode="required")) == "ANY"
    assert mode(tool_choice=ToolChoice(mode="none")) == "NONE"
    assert refused(to="gemini-2.0-flash", tools=(Tool(name="b", strict=True),)) == "tools"
    assert "toolConfig" not in sent(tools=(Tool(name="b", strict=False),))


@pytest.mark.parametrize("parallel", [False, True])
def test_how_many_calls_at_a_time_there_may_be_is_not_for_gemini(parallel: bool) -> None:
    assert sent(tools=(Tool(name="b"),), parallel_tools=parallel) == sent(tools=(Tool(name="b"),))


# --- Signatures ---


def test_a_signature_goes_back_on_its_call() -> None:
    own = call("a", signature="c2ln", origin="gemini")
    parts = contents(HELLO, model(Thinking(text="hm"), own, call("b")), to=THREE)[1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["c2ln", None]


def test_the_signature_of_a_thought_serves_the_call_that_follows_it() -> None:
    thought = Thinking(text="hm", signature="c2ln", origin="gemini")
    assert contents(HELLO, model(thought, call("a")), to=THREE)[1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_other_signatures_stand_on_a_part_of_their_own() -> None:
    thought = Thinking(signature="c2ln", origin="gemini")
    alone = {"text": "", "thoughtSignature": "c2ln"}
    assert contents(HELLO, model(Text(text="42"), thought))[1]["parts"] == [{"text": "42"}, alone]
    assert contents(HELLO, model(thought, Text(text="42")))[1]["parts"] == [alone, {"text": "42"}]


def test_a_history_of_another_model_is_marked_as_such_since_generation_3() -> None:
    foreign = (
        Thinking(text="hm", signature="theirs", origin="anthropic"),
        call("toolu_1", signature="theirs", origin="anthropic"),
        call("toolu_2"),
    )
    turns = (HELLO, model(*foreign), tool(ToolResult(id="toolu_1")), model(call("c")))
    steps = [content["parts"] for content in contents(*turns, to=THREE) if content["role"] == "model"]
    assert [[part.get("thoughtSignature") for part in step] for step in steps] == [
        ["skip_thought_signature_validator", None],
        ["skip_thought_signature_validator"],
    ]
    assert b"ignature" not in outgoing(*turns, to=FLASH).body
    assert b"theirs" not in outgoing(*turns, to=THREE).body


# --- How it is to be answered ---


def test_sampling_and_limits() -> None:
    assert config(
        max_tokens=90,
        limit=70,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.0,
        choices=2,
        logprobs=True,
        top_logprobs=3,
        stop=("a", "b"),
    ) == {
        "maxOutputTokens": 70,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.0,
        "candidateCount": 2,
        "responseLogprobs": True,
        "logprobs": 3,
        "stopSequences": ["a", "b"],
    }
    assert config(max_tokens=50, limit=70) == {"maxOutputTokens": 50}
    assert config(limit=70) == {"maxOutputTokens": 70}
    assert config(logprobs=False, top_logprobs=3) == {}


def test_formats() -> None:
    schema = Raw(b'{"type":"object"}')
    assert config(format=Format(kind="text")) == {}
    assert config(format=Format(kind="json")) == {"responseMimeType": "application/json"}
    assert config(format=Format(kind="schema", name="n", schema=schema, strict=True)) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }


def test_what_a_format_is_for_stands_in_its_schema() -> None:
    wanted = Format(kind="schema", description="For a cat.", schema=Raw(b'{"type":"object","description":"A form."}'))
    written = outgoing(format=wanted)
    schema = json.loads(written.body)["generationConfig"]["responseJsonSchema"]
    assert schema == {"type": "object", "description": "For a cat.\n\nA form."}
    assert not written.dropped


def test_constants_which_gemini_ignores_become_enums() -> None:
    schema, listed = Raw(b'{"type":"string","const":"cat"}'), {"type": "string", "enum": ["cat"]}
    body = json.loads(
        outgoing(tools=(Tool(name="a", parameters=schema),), format=Format(kind="schema", schema=schema)).body
    )
    assert body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == listed
    assert body["generationConfig"]["responseJsonSchema"] == listed


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": Raw(b'{"5":1}')},
        {"stop": ("a", "b", "c", "d", "e", "f")},
        {"extras": {"web_search_options": Raw(b"{}")}},
        {"extras": {"modalities": Raw(b'["text","audio"]')}},
        {"extras": {"modalities": Raw(b"7")}},
    ],
)
def test_what_gemini_cannot_do_is_refused_by_name(fields: Json) -> None:
    name = next(iter(fields))
    assert refused(**fields) == (next(iter(fields["extras"])) if name == "extras" else name)


def test_a_field_is_refused_by_the_caller_s_name_of_it() -> None:
    assert refused(names={"logit_bias": "theirs"}, logit_bias=Raw(b'{"5":1}')) == "theirs"


def test_an_empty_logit_bias_asks_for_nothing() -> None:
    assert config(logit_bias=Raw(b"{}")) == {}


@pytest.mark.parametrize(
    "turns",
    [
        (Turn(role="system", parts=(Text(text="Be brief", cache="5m"),)), HELLO),
        (HELLO, model(call("c")), tool(ToolResult(id="c", parts=(Text(text="a", cache="1h"),)))),
        (HELLO, model(call("c", cache="5m")), tool(ToolResult(id="c", parts=(Text(text="a"),)))),
    ],
)
def test_marks_for_a_prompt_cache_are_noted_once(turns: tuple[Turn, ...]) -> None:
    assert outgoing(*turns, tools=(Tool(name="f", cache="5m"),)).dropped == ("cache_control",)
    assert outgoing(*turns).dropped == ("cache_control",)


def test_names_of_speakers_are_noted() -> None:
    named = Turn(role="user", parts=(Text(text="Hi"),), name="ada")
    assert outgoing(named, named).dropped == ("messages[].name",)


def test_hints_are_noted() -> None:
    result = outgoing(end_user="u", verbosity="low", hints={"metadata": Raw(b"{}"), "store": Raw(b"true")})
    assert set(result.dropped) == {"end_user", "verbosity", "metadata", "store"}
    assert json.loads(result.body) == sent()


def test_pictures_can_be_asked_for() -> None:
    image = "gemini-2.5-flash-image"
    assert config(to=image, extras={"modalities": Raw(b'["image","text"]')}) == {
        "responseModalities": ["IMAGE", "TEXT"]
    }
    assert config(extras={"modalities": Raw(b'["text"]')}) == {}
    assert json.loads(outgoing(to=image, stream=True).body)["contents"]


THINKING = [
    # model, effort, budget, what is sent
    (FLASH, "none", None, {"thinkingBudget": 0}),
    (FLASH, "minimal", None, {"thinkingBudget": 1024}),
    (FLASH, "low", None, {"thinkingBudget": 1024}),
    (FLASH, "medium", None, {"thinkingBudget": 8192}),
    (FLASH, "high", None, {"thinkingBudget": 24576}),
    (FLASH, None, 2000, {"thinkingBudget": 2000}),
    (FLASH, None, 0, {"thinkingBudget": 0}),
    (FLASH, None, 99999, {"thinkingBudget": 24576}),
    ("gemini-2.5-flash-lite", None, 100, {"thinkingBudget": 512}),
    ("gemini-2.5-flash-lite", None, 0, {"thinkingBudget": 0}),
    ("gemini-2.5-pro", "none", None, {"thinkingBudget": 128}),
    ("gemini-2.5-pro", "xhigh", None, {"thinkingBudget": 32768}),
    (THREE, "none", None, {"thinkingLevel": "MINIMAL"}),
    (THREE, "medium", None, {"thinkingLevel": "MEDIUM"}),
    (THREE, None, 0, {"thinkingLevel": "MINIMAL"}),
    (THREE, None, 1000, {"thinkingLevel": "LOW"}),
    (THREE, None, 8000, {"thinkingLevel": "MEDIUM"}),
    (THREE, None, 20000, {"thinkingLevel": "HIGH"}),
    ("gemini-3-pro-preview", "minimal", None, {"thinkingLevel": "LOW"}),
    ("gemini-3-pro-preview", "medium", None, {"thinkingLevel": "HIGH"}),
    ("gemini-3.1-pro-preview", "medium", None, {"thinkingLevel": "MEDIUM"}),
    ("gemini-3.1-pro-preview", "max", None, {"thinkingLevel": "HIGH"}),
    ("gemini-3.8-flash", "minimal", None, {"thinkingLevel": "LOW"}),
    ("gemini-3.5-flash-lite", "minimal", None, {"thinkingLevel": "MINIMAL"}),
    ("google/gemini-3-flash-preview", "low", None, {"thinkingLevel": "LOW"}),
    ("gemini-flash-latest", "low", None, {"thinkingLevel": "LOW"}),
]


@pytest.mark.parametrize(("to", "effort", "budget", "expected"), THINKING)
def test_how_much_to_think(to: str, effort: str | None, budget: int | None, expected: Json) -> None:
    assert config(to=to, reasoning=Reasoning(effort=effort, budget=budget)) == {"thinkingConfig": expected}


def test_thoughts_are_shown_when_they_are_asked_for() -> None:
    assert config(reasoning=Reasoning(shown=True)) == {"thinkingConfig": {"includeThoughts": True}}
    assert config(to=THREE, reasoning=Reasoning(effort="low", shown=False)) == {
        "thinkingConfig": {"includeThoughts": False, "thinkingLevel": "LOW"}
    }
    assert config(reasoning=Reasoning()) == {}


def test_a_model_that_does_not_think_says_so() -> None:
    assert refused(to="gemini-2.0-flash", reasoning=Reasoning(effort="high")) == "reasoning"
    assert config(to="gemini-2.0-flash", reasoning=Reasoning(effort="none", shown=True)) == {}
    assert refused(reasoning=Reasoning(effort="enormous")) == "reasoning"


def test_thinking_that_cannot_be_turned_off_is_noted() -> None:
    assert outgoing(to="gemini-2.5-pro", reasoning=Reasoning(budget=0)).dropped == ("reasoning",)
    assert outgoing(to=THREE, reasoning=Reasoning(effort="none")).dropped == ("reasoning",)
    assert outgoing(to=THREE, reasoning=Reasoning(effort="low")).dropped == ()


# --- Anything ---

texts = st.text(max_size=4)
parts = st.one_of(
    st.builds(Text, text=texts),
    st.builds(Image, url=texts, data=texts, media_type=texts),
    st.builds(Document, url=texts, data=texts, text=texts, media_type=texts),
    st.builds(Audio, data=texts, format=texts),
    st.builds(Thinking, text=texts, signature=texts, origin=st.sampled_from(["gemini", "anthropic"])),
    st.builds(ToolCall, id=texts, name=texts, arguments=texts | st.just("{}"), signature=texts),
    st.builds(ToolResult, id=texts, name=texts, parts=st.just(())),
    st.builds(Opaque, origin=texts, json=st.just(Raw(b"1")), param=texts),
)
roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
turns = st.lists(st.builds(Turn, role=roles, parts=st.lists(parts, max_size=3).map(tuple)), max_size=5)


@given(turns, st.booleans(), st.sampled_from([FLASH, THREE, "gemma-4", "x"]))
def test_any_conversation_is_sent_or_refused(said: list[Turn], lenient: bool, to: str) -> None:
    conversation = Conversation(origin="anthropic", turns=tuple(said), lenient=lenient)
    try:
        result = GeminiProvider().outgoing(conversation, route(upstream_model=to), 5)
    except UnsupportedField:
        assert not lenient
        return
    body = json.loads(result.body)
    assert body["contents"]
    for content in body["contents"]:
        assert content["role"] in ("user", "model")
