"""Protocols, without the world: bytes and values in, bytes and values out.

A request: `openai_chat`, `openai_completions`, `openai_embeddings` turn a body into a `request.Request` or refuse it in
plain words (`body` JSON that nobody has looked at yet · `inputs` the forms of a plain input · `prompt` what a request
gives a model to read).
A call: `translate.exchange(request, route, …)` gives the `exchange.Exchange` for the route's dialect: the body to send
(`quirks`: what this provider wants otherwise), and readers of what comes back: `openai_answer` a whole answer,
`openai_stream` a stream, `openai_embeddings` vectors (`openai_reply` what such servers send, read carefully · `sse`
events · `usage` the one gate for numbers that somebody else counted).
Other dialects: a caller's `dialect.Client` and a provider's `dialect.Provider` meet in a `conversation`; `translated`
carries what comes back (`event_reader` what readers of events have in common). `preferences`: which models and
providers a caller wants.
OpenAI's chat, translated: `openai_chat_conversation` what a request says, `openai_chat_client` answers written;
`openai_chat_body` the same said to a provider, `openai_chat_provider` its answers read.
Responses: `responses_request` a request (`responses_body` its types), `responses_conversation` what it says,
`responses_tools` which tools, `responses_client` answers written (`responses_object` what they are made of). Both share
`openai_parts`.
Anthropic: `anthropic_messages` a request (`anthropic_body` its types), `anthropic_conversation` what it says,
`anthropic_request` the same said to a provider (`anthropic_models` what each model takes), `anthropic_provider` answers
read (`anthropic_reply` carefully), `anthropic_client` written, `anthropic_passing` passed on, and `anthropic_usage`.
Gemini: `gemini_request` what a provider is asked, `gemini_provider` answers read, `gemini_usage`, `gemini_embeddings`.
`errors`: our errors as OpenAI's clients read them, and providers' errors as this gateway reads them.
"""
