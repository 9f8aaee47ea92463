"""Catalogs for tests of pages: many models, strange ones."""

import json

from tests.web.payloads import PAYLOADS

# Shipped models of these are listed but never called.
MANY = "".join(
    f'\n[providers.{name}]\napi_key = "not-a-key-{name}"\n' for name in ("openai", "anthropic", "deepseek", "mistral")
)

PRICED = """
[[models]]
id = "maker/tiered"
aliases = ["tiered"]
type = "reasoning"
context_window = 1000000
output_limit = 64000
best_for = "Long documents"
owned_by = "maker"
capabilities = ["tools", "vision"]
routes = [{ provider = "up", model = "x" }]
[models.price]
input = "2"
output = "8"
cache_read = "0.2"
searches = "10"
tiers = [{ above = 200000, input = "4", output = "16" }]
periods = [{ days = "sat-sun", input = "1", output = "4" }]
"""


def strange() -> str:
    """Models in which every free text is a payload that would run if it were not escaped."""
    rows = []
    for index, payload in enumerate(PAYLOADS):
        text = json.dumps(payload, ensure_ascii=False)
        maker = json.dumps(payload[:60], ensure_ascii=False)
        rows.append(
            f'\n[[models]]\nid = "strange-{index}"\nbest_for = {text}\nowned_by = {maker}\n'
            f'aliases = [{text}]\nprice = {{ input = "1", output = "1" }}\n'
            'routes = [{ provider = "up", model = "x" }]\n'
        )
    return "".join(rows)
