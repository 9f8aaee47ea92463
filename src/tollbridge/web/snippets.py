"""The first call, in the languages that people ask for, ready to paste."""

from tollbridge.values import Model
from tollbridge.web.markdown import Code

KEY = "YOUR_API_KEY"


def first_call(base_url: str, model: Model | None, key: str = KEY) -> list[Code]:
    """Python, Node.js and curl; an embedding if that is what the model makes."""
    name = "a-model" if model is None else model.id
    if model is not None and model.type == "embedding":
        return _embedding(base_url, name, key)
    return [
        Code(
            "python",
            f"""from openai import OpenAI

client = OpenAI(
    api_key="{key}",
    base_url="{base_url}",
)
response = client.chat.completions.create(
    model="{name}",
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(response.choices[0].message.content)""",
        ),
        Code(
            "js",
            f"""import OpenAI from "openai";

const client = new OpenAI({{
  apiKey: "{key}",
  baseURL: "{base_url}",
}});
const response = await client.chat.completions.create({{
  model: "{name}",
  messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(response.choices[0].message.content);""",
        ),
        Code(
            "sh",
            f"""curl {base_url}/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{
    "model": "{name}",
    "messages": [{{"role": "user", "content": "Hello!"}}]
  }}'""",
        ),
    ]


def _embedding(base_url: str, name: str, key: str) -> list[Code]:
    return [
        Code(
            "python",
            f"""from openai import OpenAI

client = OpenAI(
    api_key="{key}",
    base_url="{base_url}",
)
response = client.embeddings.create(
    model="{name}",
    input="The food was delicious",
)
print(response.data[0].embedding)""",
        ),
        Code(
            "js",
            f"""import OpenAI from "openai";

const client = new OpenAI({{
  apiKey: "{key}",
  baseURL: "{base_url}",
}});
const response = await client.embeddings.create({{
  model: "{name}",
  input: "The food was delicious",
}});
console.log(response.data[0].embedding);""",
        ),
        Code(
            "sh",
            f"""curl {base_url}/embeddings \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{name}", "input": "The food was delicious"}}'""",
        ),
    ]
