"""Protocols, without the world: bytes and values in, bytes and values out.

A request: `openai_chat`, `openai_completions`, `openai_embeddings` turn a body into a `request.Request` or refuse it in
plain words (`body` unchecked JSON · `inputs` the forms of a plain input · `prompt` what a request gives a model to
read). `preferences`: which models and providers a caller wants.
A call: `translate.exchange(request, route, …)` gives the `exchange.Exchange` for the route's dialect: the body to send
(`quirks`: where this provider differs from its dialect) and readers for what comes back: `openai_answer` a whole
answer, `openai_stream` a stream (`openai_plain` its repeating events), `openai_embeddings` vectors (`openai_reply` what
such servers send, read with care · `sse` events · `usage` the one gate for numbers that somebody else counted).
Other dialects: a caller's `dialect.Client` and a provider's `dialect.Provider` meet in a `conversation`; `translated`
carries what comes back (`event_reader` what all readers of events share).
OpenAI's chat, translated: `openai_chat_conversation` reads a request, `openai_chat_client` writes answers;
`openai_chat_body` writes a request to a provider, `openai_chat_provider` reads its answers.
Responses: `responses_request` a request (`responses_body` its types), `responses_conversation` reads it,
`responses_tools` its tools, `responses_client` writes answers (`responses_object` their parts). Chat and Responses
share `openai_parts`.
Anthropic: `anthropic_messages` a request (`anthropic_body` its types), `anthropic_conversation` reads it,
`anthropic_request` writes one to a provider (`anthropic_models` what each model takes), `anthropic_provider` reads
answers (`anthropic_reply` their shapes), `anthropic_client` writes them, `anthropic_passing` passes them on, and
`anthropic_usage`.
Gemini: `gemini_request` writes a request, `gemini_provider` reads answers, `gemini_usage`, `gemini_embeddings`.
`errors`: our errors as OpenAI's clients read them, and providers' errors as this gateway reads them.
"""
