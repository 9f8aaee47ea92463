"""Tollbridge: an OpenAI-compatible gateway that sells access to language models, with provable books.

The path of a request: `edge` (bytes in) → `gateway.admission` (may it run, and what may it cost) → `gateway.relay`
(call the provider) → `gateway.settlement` (charge) → `edge` (bytes out). `core` and `wire` are pure; `store`, `limits`
and `upstream` touch the world; `app.Gateway` puts everything together.
"""

__version__ = "0.1.0"
