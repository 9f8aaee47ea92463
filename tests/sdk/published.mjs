// The calls of the published documentation, with the official client for Node. Prints what they gave as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY });
const { MODEL = "m", EMBEDDING_MODEL = "e" } = process.env;
const messages = [{ role: "user", content: "Hello!" }];

const whole = await client.chat.completions.create({ model: MODEL, messages });

let streamed = "";
for await (const part of await client.chat.completions.create({ model: MODEL, messages, stream: true })) {
  streamed += part.choices[0].delta.content ?? "";
}

const vectors = await client.embeddings.create({ model: EMBEDDING_MODEL, input: "The food was delicious" });
const models = [];
for await (const model of client.models.list()) models.push(model.id);

let refused;
try {
  await client.chat.completions.create({ model: "none", messages });
} catch (error) {
  refused = [error.constructor.name, error.status, error.code];
}

console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    cost: whole.usage.cost,
    streamed,
    embedding: vectors.data[0].embedding,
    models,
    refused,
  }),
);
