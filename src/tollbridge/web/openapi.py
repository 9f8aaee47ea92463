"""The API as an OpenAPI 3.1 document, generated from what the endpoints check: the types and rules of `wire`.

A row of `OPERATIONS` is a path that is served; tests compare it with the tables of the edge.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import inspect
from starlette.responses import Response

from tollbridge import __version__
from tollbridge.config.settings import Brand, Errors
from tollbridge.web import api
from tollbridge.web.openapi_answers import SCHEMAS, TEXT, Json, headers, ref
from tollbridge.web.openapi_types import DEPTH, typed
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit
from tollbridge.wire import anthropic_body, openai_chat, openai_completions, openai_embeddings, responses_body


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. `body` and `rules`: what its body is checked against; `answer`: the name of a schema.

    `streams`: with `stream` true, it answers with events. `paid`: it is charged, so its answers have money headers.
    `query`: its query parameters, and what they are.
    """

    method: str
    path: str
    group: str
    summary: str
    text: str
    answer: str
    body: type[msgspec.Struct] | None = None
    rules: Mapping[str, str] = {}
    example: Json | None = None
    query: Mapping[str, str] = {}
    streams: bool = False
    paid: bool = False
    public: bool = False

    @property
    def id(self) -> str:
        return f"{self.method.lower()}-{self.path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}"


class Problem(msgspec.Struct, frozen=True):
    """An error that may be answered. `advice`: what to do about it."""

    status: int
    code: str
    advice: str


_HELLO = [{"role": "user", "content": "Hello!"}]
OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/chat/completions",
        group="Inference",
        summary="Chat completions",
        text="An answer to a conversation, whole or as a stream of events.",
        answer="ChatCompletion",
        body=openai_chat.Body,
        rules=openai_chat.BODY_RULES,
        example={"model": "«model»", "messages": _HELLO},
        streams=True,
        paid=True,
    ),
    Operation(
        method="POST",
        path="/v1/completions",
        group="Inference",
        summary="Completions",
        text="The continuation of a text, whole or as a stream of events.",
        answer="Completion",
        body=openai_completions.Body,
        rules=openai_completions.BODY_RULES,
        example={"model": "«model»", "prompt": "Once upon a time", "max_tokens": 64},
        streams=True,
        paid=True,
    ),
    Operation(
        method="POST",
        path="/v1/embeddings",
        group="Inference",
        summary="Embeddings",
        text="Vectors for texts.",
        answer="Embeddings",
        body=openai_embeddings.Body,
        rules=openai_embeddings.BODY_RULES,
        example={"model": "«embedding»", "input": "The food was delicious"},
        paid=True,
    ),
    Operation(
        method="POST",
        path="/v1/responses",
        group="Inference",
        summary="Responses",
        text="OpenAI's Responses, whole or as its stream of events. Nothing is kept between requests.",
        answer="Response",
        body=responses_body.Body,
        rules=responses_body.BODY_RULES,
        example={"model": "«model»", "input": "Hello!"},
        streams=True,
        paid=True,
    ),
    Operation(
        method="POST",
        path="/v1/messages",
        group="Inference",
        summary="Messages",
        text="Anthropic's Messages, whole or as its stream of events.",
        answer="Message",
        body=anthropic_body.Body,
        rules=anthropic_body.BODY_RULES,
        example={"model": "«model»", "max_tokens": 1024, "messages": _HELLO},
        streams=True,
        paid=True,
    ),
    Operation(
        method="POST",
        path="/v1/messages/count_tokens",
        group="Inference",
        summary="Count tokens",
        text="About how many input tokens a message would use. It costs nothing.",
        answer="TokenCount",
        body=anthropic_body.Counted,
        rules=anthropic_body.BODY_RULES,
        example={"model": "«model»", "messages": _HELLO},
    ),
    Operation(
        method="GET",
        path="/v1/models",
        group="Models",
        summary="List models",
        text="All models that your key may call, with their prices.",
        answer="ModelList",
    ),
    Operation(
        method="GET",
        path="/v1/models/{id}",
        group="Models",
        summary="Get a model",
        text="One model. An id with `/` may be written raw or as `%2F`.",
        answer="Model",
    ),
    Operation(
        method="GET",
        path="/v1/credits",
        group="Account",
        summary="Credit",
        text="What your account has, and how much of it is held for running requests.",
        answer="Credits",
    ),
    Operation(
        method="GET",
        path="/v1/key",
        group="Account",
        summary="This key",
        text="The limits of the key you ask with, and what it has spent.",
        answer="Key",
    ),
    Operation(
        method="GET",
        path="/v1/generation",
        group="Account",
        summary="One request",
        text="What a request used and cost, by the id of its answer.",
        answer="Generation",
        query={"id": "The `id` of the answer, also in its header `«header»-Generation-Id`."},
    ),
    Operation(
        method="POST",
        path="/v1/estimate",
        group="Account",
        summary="Estimate",
        text=(
            "What a request would cost, and whether it would be admitted. The body is that of a chat, or "
            '`{"endpoint": "embeddings", "body": {…}}`. It costs nothing and counts against no limit.'
        ),
        answer="Estimate",
        example={"model": "«model»", "messages": _HELLO},
    ),
    Operation(
        method="GET",
        path="/v1/health",
        group="Health",
        summary="Health",
        text="The process is alive. `/health` is the same.",
        answer="Health",
        public=True,
    ),
    Operation(
        method="GET",
        path="/health",
        group="Health",
        summary="Health",
        text="The process is alive.",
        answer="Health",
        public=True,
    ),
    Operation(
        method="GET",
        path="/ready",
        group="Health",
        summary="Readiness",
        text="It takes requests: 200; or 503 while it starts or stops, is too busy, or its books cannot be trusted.",
        answer="Health",
        public=True,
    ),
)

PROBLEMS = (
    Problem(400, "invalid_request_error", "fix the request; `param` names the field"),
    Problem(400, "invalid_url", "a URL in the messages cannot be fetched: send the data itself"),
    Problem(400, "answer_too_large", "the answer is more than is read of one: ask for fewer inputs or choices"),
    Problem(400, "cost_cap_exceeded", "it could cost more than its cap: send a smaller `max_tokens` or prompt"),
    Problem(400, "context_length_exceeded", "send a shorter prompt"),
    Problem(400, "thread_unsupported_request", "send the whole conversation, without `thread`"),
    Problem(400, "ambiguous_credentials", "send one key, not two"),
    Problem(401, "invalid_api_key", "check the key"),
    Problem(402, "insufficient_credits", "add credit; do not try again before"),
    Problem(402, "in_flight_budget_exhausted", "your running requests hold the rest: try again after `Retry-After`"),
    Problem(402, "key_limit_exceeded", "this key has spent its limit"),
    Problem(403, "account_frozen", "ask the operator"),
    Problem(403, "model_not_allowed", "your plan or key does not include this model"),
    Problem(403, "address_not_allowed", "this key may not be used from your address"),
    Problem(403, "own_credential_refused", "your own key at the provider was refused or is out of credit"),
    Problem(404, "model_not_found", "check the name of the model"),
    Problem(
        404, "no_allowed_provider", "what `provider` asks for leaves no provider; the message names those there are"
    ),
    Problem(404, "generation_not_found", "check the id"),
    Problem(404, "generation_not_ended", "ask again once it has ended"),
    Problem(404, "not_found", "check the path"),
    Problem(405, "method_not_allowed", "see `Allow`"),
    Problem(408, "request_timeout", "the request took too long to arrive"),
    Problem(409, "idempotency_in_progress", "the request with this key is running: ask again for its answer"),
    Problem(409, "idempotency_answer_not_kept", "it was answered and charged, but the answer was not kept"),
    Problem(413, "request_too_large", "send a smaller body"),
    Problem(415, "unsupported_media_type", "send JSON, not compressed"),
    Problem(422, "idempotency_key_reused", "the key was used for another request: take a new one"),
    Problem(429, "rate_limit_exceeded", "try again after `Retry-After`; not at all with `x-should-retry: false`"),
    Problem(429, "insufficient_quota", "neither the month's included tokens nor the credit cover it: add credit"),
    Problem(429, "abuse_cooldown", "too many long prompts cut off, refused calls sent again, or wrong keys: wait"),
    Problem(431, "headers_too_large", "send smaller headers"),
    Problem(500, "internal_error", "our fault: try again"),
    Problem(502, "upstream_unavailable", "the provider failed on every route: try again"),
    Problem(502, "upstream_invalid_response", "the provider's answer made no sense: try again"),
    Problem(502, "upstream_auth", "the provider refused the operator's credential; your key is fine"),
    Problem(503, "no_available_provider", "no route can be called now: try again after `Retry-After`"),
    Problem(
        503, "ledger_unavailable", "the books cannot be written, so nothing is sold: try again after `Retry-After`"
    ),
    Problem(503, "overloaded", "try again after `Retry-After`"),
    Problem(504, "upstream_timeout", "the provider did not answer in time: try again"),
)


def problems(errors: Errors) -> list[Problem]:
    """All errors, with the statuses that the operator chose."""
    chosen = []
    for problem in PROBLEMS:
        if problem.code == "no_available_provider":
            problem = msgspec.structs.replace(problem, status=errors.no_available_provider)
        elif problem.code == "upstream_unavailable" and errors.upstream_failed != problem.status:
            chosen.append(Problem(errors.upstream_failed, problem.code, "the provider had an error: try again"))
            problem = msgspec.structs.replace(problem, advice="the provider cannot be reached: try again")
        chosen.append(problem)
    return sorted(chosen, key=lambda problem: problem.status)


_OF_BODIES = frozenset({400, 413, 415})
_OF_ONE_PATH = {
    "model_not_found": "/v1/models/{id}",
    "generation_not_found": "/v1/generation",
    "generation_not_ended": "/v1/generation",
}
# Without a call to a provider, and a hold for it, these cannot be.
_OF_CALLS = frozenset(
    {"invalid_url", "answer_too_large", "cost_cap_exceeded", "context_length_exceeded", "thread_unsupported_request"}
    | {"insufficient_credits", "in_flight_budget_exhausted", "key_limit_exceeded", "insufficient_quota"}
    | {"account_frozen", "model_not_allowed", "own_credential_refused", "no_allowed_provider", "no_available_provider"}
    | {"idempotency_in_progress", "idempotency_answer_not_kept", "idempotency_key_reused", "rate_limit_exceeded"}
    | {"upstream_unavailable", "upstream_invalid_response", "upstream_auth", "upstream_timeout"}
)
_LIKE_ANTHROPIC = frozenset({"/v1/messages", "/v1/messages/count_tokens"})


def document(brand: Brand, errors: Errors, base: str) -> Json:
    """The whole document; `base`: the gateway's address without `/v1`. Examples still contain their marks."""
    paths: Json = {}
    found = problems(errors)
    for operation in OPERATIONS:
        made = _operation(operation, brand.header_prefix, found)
        paths.setdefault(operation.path, {})[operation.method.lower()] = made
    return {
        "openapi": "3.1.0",
        "info": {
            "title": brand.name,
            "version": __version__,
            "description": f"The API of {brand.name}: OpenAI's and Anthropic's endpoints, and what they cost.",
        },
        "servers": [{"url": base}],
        "security": [{"key": []}],
        "paths": paths | api.openapi_paths(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "bearerFormat": f"{brand.key_prefix}…"},
                "managementKey": {"type": "http", "scheme": "bearer", "bearerFormat": f"{brand.key_prefix}manage_…"},
            },
        },
    }


def parameters(operation: Operation) -> list[tuple[str, str, bool, str]]:
    """The checked members of a body: name, type, whether it is required, what it must be."""
    if operation.body is None:
        return []
    required = set(_schema(operation.body, {})["required"])
    shown = []
    for field in msgspec.structs.fields(operation.body):
        name = field.encode_name
        schema = typed(inspect.type_info(field.type), operation.rules, name, DEPTH - 1)
        must = name in required or name in _NEEDED.get(operation.path, ())
        shown.append((name, type_text(schema), must, operation.rules.get(name, "").removeprefix("must be ")))
    return shown


def type_text(schema: Json) -> str:
    """`string or array`."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(each) for each in schema["anyOf"] if each != {"type": "null"}))
    if "enum" in schema:
        return "string"
    return str(schema.get("type", "any"))


# Required although the type has a default, because it is only read later.
_NEEDED = {"/v1/completions": ("prompt",), "/v1/embeddings": ("input",)}


def _operation(operation: Operation, prefix: str, problems: Sequence[Problem]) -> Json:
    made: Json = {
        "operationId": operation.id,
        "tags": [operation.group],
        "summary": operation.summary,
        "description": operation.text.replace("«header»", prefix),
        "responses": _responses(operation, prefix, problems),
    }
    inputs = [
        {
            "name": name,
            "in": "query",
            "required": True,
            "description": text.replace("«header»", prefix),
            "schema": TEXT,
        }
        for name, text in operation.query.items()
    ]
    if "{id}" in operation.path:
        inputs.append({"name": "id", "in": "path", "required": True, "schema": TEXT})
    if operation.paid or operation.path == "/v1/estimate":
        text = "The most that this request may cost you, a decimal in USD."
        inputs.append({"name": f"{prefix}-Max-Cost-USD", "in": "header", "description": text, "schema": TEXT})
    if operation.paid:
        text = "Sending the same request again with it gets the same answer and is not charged again."
        inputs.append({"name": "Idempotency-Key", "in": "header", "description": text, "schema": TEXT})
    if operation.path.startswith("/v1/models"):
        text = "With it, the answer is Anthropic's."
        inputs.append({"name": "anthropic-version", "in": "header", "description": text, "schema": TEXT})
    if inputs:
        made["parameters"] = inputs
    if operation.method == "POST":
        body: Json = {"type": "object"}
        if operation.body is not None:
            body = _schema(operation.body, operation.rules, operation.path)
        content: Json = {"schema": body}
        if operation.example is not None:
            content["example"] = operation.example
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    if operation.public:
        made["security"] = []
    return made


def _responses(operation: Operation, prefix: str, problems: Sequence[Problem]) -> Json:
    content: Json = {"application/json": {"schema": ref(operation.answer)}}
    if operation.streams:
        content["text/event-stream"] = {"schema": TEXT}
    made: Json = {"200": {"description": operation.summary, "content": content}}
    refused = ref("MessagesError" if operation.path in _LIKE_ANTHROPIC else "Error")
    for problem in problems:
        if _can_have(operation, problem):
            known = made.setdefault(
                str(problem.status), {"description": "", "content": {"application/json": {"schema": refused}}}
            )
            known["description"] = ", ".join(filter(None, (known["description"], f"`{problem.code}`")))
    if operation.path == "/ready":
        made["503"] = {"description": "It takes no requests.", "content": content}
    for status, answer in made.items():
        answer["headers"] = headers(int(status), prefix, paid=operation.paid)
    return made


def _can_have(operation: Operation, problem: Problem) -> bool:
    code = problem.code
    if operation.public:
        return False
    if code in _OF_ONE_PATH:
        return operation.path == _OF_ONE_PATH[code] or (operation.paid and code == "model_not_found")
    if code in _OF_CALLS:
        return operation.paid
    if operation.method == "GET" and problem.status in _OF_BODIES:
        # Of a header, or of a query.
        return code == "ambiguous_credentials" or (code == "invalid_request_error" and bool(operation.query))
    return True


def _schema(body: type[msgspec.Struct], rules: Mapping[str, str], path: str = "") -> Json:
    made = typed(inspect.type_info(body), rules, "", DEPTH)
    made["required"] = sorted({*made.get("required", ()), *_NEEDED.get(path, ())})
    made["additionalProperties"] = True
    return made


async def raw(visit: Visit) -> Response:
    from tollbridge.web import docs  # the guide shows this document

    fill, settings = docs.fill(visit), visit.shared.settings
    text = msgspec.json.encode(document(settings.brand, settings.errors, visit.shared.desk.url)).decode()
    headers = {"access-control-allow-origin": "*"}
    return Response(docs.filled(text, fill), media_type="application/json", headers=headers)


PAGES = (Page("GET", "/openapi.json", ANYONE, raw),)
