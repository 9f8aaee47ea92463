"""Where one provider differs from its dialect, by its row: the body in the same dialect, changed only where it must be.

Rule 1  The body that is sent has the caller's members in their order and their values byte for byte, except those that
        had to change. White space between members is removed, and a repeated name is sent once, as it was checked: what
        was checked is what every reader sees.
Rule 2  No default is added that the caller did not send. A limit is sent only if the caller or money sets one, under
        every name that the caller used, so that no provider reads a larger one; under `max_tokens` if they used none.
        Renames apply to chat only: the older endpoints have one name for everything.
Rule 3  Usage is asked for on every stream, unless this provider refuses to be asked.
Rule 4  Callers send messages back as they came, whichever model wrote them: a provider that refuses
        `reasoning_content` is sent nothing that we or others told under that name, nor the proofs of it.
"""

from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from tollbridge.errors import UnsupportedField
from tollbridge.values import Route, Upstream
from tollbridge.wire.body import NULL
from tollbridge.wire.request import CALLERS_TOOLS, Request

_LIMITS = ("max_completion_tokens", "max_tokens")
_ASK_USAGE = Raw(b'{"include_usage":true}')
_TRUE = Raw(b"true")

_THOUGHT = "reasoning_content"
_THOUGHTS = (_THOUGHT, "reasoning_details")
_MAY_BE_THOUGHTS = (b'"reasoning_', b'"extra_content"')

# OpenRouter's object, for which others have one word.
_REASONING = "reasoning"
# The largest budget, in tokens, that an effort stands for: chat has no budgets.
_BUDGETS = ((2048, "low"), (8192, "medium"))


class _Reasoning(msgspec.Struct, gc=False):
    effort: str | None = None
    max_tokens: int | None = None


# Tools that providers run themselves: free, or metered where searches have a price.
_FREE = "openrouter:datetime"
_SEARCHES = ("web_search", "openrouter:web_search")


class _Tool(msgspec.Struct, gc=False):
    type: Any = None


_encode = msgspec.json.Encoder().encode
_decode_tool = msgspec.json.Decoder(_Tool).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_reasoning = msgspec.json.Decoder(_Reasoning).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, Raw]]).decode


def body_for(request: Request, route: Route, max_tokens: int | None) -> bytes:
    """The body to send on `route`. `max_tokens`: the limit that money sets, None if it sets none."""
    upstream, fields = route.upstream, request.fields
    # If the caller gave one limit, or none, it goes out as it came.
    is_limited = max_tokens is not None or ("max_completion_tokens" in fields and "max_tokens" in fields)
    is_other = route.upstream_model != request.model
    if not (is_other or request.stream or is_limited or upstream.changes_bodies):
        return _encode(fields)
    fields = dict(fields)
    if is_other:
        fields["model"] = Raw(_encode(route.upstream_model))
    if request.stream:
        _ask_for_usage(fields, request, upstream)
    if is_limited:
        _limit(fields, request, max_tokens)
    if upstream.changes_bodies:
        _rename(fields, request, upstream)
        change(fields, upstream)
        if request.endpoint == "chat" and _THOUGHT in upstream.drops:
            fields["messages"] = _without_thoughts(fields["messages"])
    return _encode(fields)


def left_out(request: Request, upstream: Upstream) -> tuple[str, ...]:
    """The caller's fields that `body_for` removes."""
    left = tuple(name for name in upstream.drops if request.fields.get(name, NULL) != NULL)
    reasoning = request.fields.get(_REASONING, NULL)
    if reasoning != NULL and request.endpoint == "chat" and _REASONING in dict(upstream.renames):
        return left if _in_a_word(reasoning) != NULL else (*left, _REASONING)
    return left


def without_unpriced_tools(request: Request, route: Route) -> tuple[Request, tuple[str, ...]]:
    """`request` without the tools that providers run themselves, and bill apart, for which the model has no price; and
    what was left out. All stay if nothing has a price or the customer's own credential pays. Raises `UnsupportedField`
    where the caller wants all of them.
    """
    if route.upstream.owner or not any(route.price.at_most):
        return request, ()
    left, refused = [], []
    for index, raw in enumerate(_decode_raws(request.fields["tools"])):
        kind = _decode_tool(raw).type
        named = kind if isinstance(kind, str) else ""
        if kind in CALLERS_TOOLS or named == _FREE or (route.price.searches and named.startswith(_SEARCHES)):
            left.append(raw)
        else:
            refused.append(f"tools[{index}]")
    if not refused:
        return request, ()
    if not request.lets_omit(route.upstream):
        raise UnsupportedField(
            f"'{refused[0]}' is run by the provider, which may bill it apart, and {route.model} has no price for it."
            ' Leave it out, or let it be left out with "provider": {"require_parameters": false}.',
            param=refused[0],
        )
    fields = request.fields | {"tools": Raw(_encode(left))}
    if not left:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)
    return msgspec.structs.replace(request, fields=fields), tuple(refused)


def effort(wanted: str | None, budget: int | None) -> str | None:
    """The effort to ask for. None also for a budget of 0: models that cannot think refuse to be told not to."""
    if wanted is not None or not budget:
        return wanted
    return next((word for most, word in _BUDGETS if budget <= most), "high")


def change(fields: dict[str, Any], upstream: Upstream) -> None:
    """Remove from `fields` what `upstream` refuses, and add what it wants in every body, whatever the dialect."""
    for name in upstream.drops:
        fields.pop(name, None)
    for name, value in upstream.adds:
        fields[name] = Raw(value.encode())


def target_for(route: Route, endpoint: str, usual: str, *, stream: bool = False) -> bytes:
    """The path of `endpoint` below the base URL: `usual`, unless the provider's row says otherwise.

    A row may have another path for streams, `stream`. `{model}` becomes the upstream's name for the model.
    """
    template = usual
    if route.upstream.paths:
        paths = dict(route.upstream.paths)
        template = (paths.get("stream") if stream else None) or paths.get(endpoint) or usual
    if "{model}" in template:
        template = template.replace("{model}", quote(route.upstream_model, safe="@"))
    return template.encode("ascii")


def _ask_for_usage(fields: dict[str, Raw], request: Request, upstream: Upstream) -> None:
    if not upstream.stream_usage:
        fields.pop("stream_options", None)
    elif not request.include_usage:
        options = fields.get("stream_options", NULL)
        if options == NULL:
            fields["stream_options"] = _ASK_USAGE
        else:
            members = msgspec.json.decode(options, type=dict[str, Raw]) | {"include_usage": _TRUE}
            fields["stream_options"] = Raw(msgspec.json.encode(members))


def _limit(fields: dict[str, Raw], request: Request, max_tokens: int | None) -> None:
    if request.endpoint == "embeddings":
        return
    names = [name for name in _LIMITS if fields.get(name, NULL) != NULL]
    limits = [limit for limit in (request.max_tokens, max_tokens) if limit is not None]
    if not limits or (max_tokens is None and len(names) < 2):
        return
    value = Raw(str(min(limits)).encode())
    for name in names or ("max_tokens",):
        fields[name] = value


def _rename(fields: dict[str, Raw], request: Request, upstream: Upstream) -> None:
    if request.endpoint != "chat":
        return
    for old, new in upstream.renames:
        value = fields.pop(old, NULL)
        if old == _REASONING and value != NULL:
            value = _in_a_word(value) if fields.get(new, NULL) == NULL else NULL
        if value != NULL:
            fields[new] = value


def _in_a_word(reasoning: Raw) -> Raw:
    """The effort that OpenRouter's object asks for; null if it asks for none. What is not understood stays as it came:
    the provider says what is wrong with it.
    """
    try:
        asked = _decode_reasoning(reasoning)
    except msgspec.ValidationError:
        return reasoning
    word = effort(asked.effort, asked.max_tokens)
    return NULL if word is None else Raw(_encode(word))


def _without_thoughts(messages: Raw) -> Raw:
    text = bytes(messages)
    if not any(sign in text for sign in _MAY_BE_THOUGHTS):
        return messages
    left = _decode_objects(messages)
    for message in left:
        for name in _THOUGHTS:
            message.pop(name, None)
        calls = message.get("tool_calls", NULL)
        if b'"extra_content"' in bytes(calls):
            message["tool_calls"] = _without_proofs(calls)
    return Raw(_encode(left))


def _without_proofs(calls: Raw) -> Raw:
    """Tool calls without Gemini's signatures, which are members beside OpenAI's own."""
    try:
        left = _decode_objects(calls)
    except msgspec.ValidationError:
        return calls  # the provider says what is wrong with it
    for call in left:
        call.pop("extra_content", None)
    return Raw(_encode(left))
