// A stream that breaks off after some text, with each SDK as its users read it. Prints what each of them tells, as JSON.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createOpenRouter } from "@openrouter/ai-sdk-provider";
import { OpenRouter } from "@openrouter/sdk";
import { streamText } from "ai";
import OpenAI from "openai";

const { BASE_URL: baseURL, API_KEY: apiKey } = process.env;
const messages = [{ role: "user", content: "Hello!" }];
const node = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const openrouter = new OpenRouter({ apiKey, serverURL: baseURL, retryConfig: { strategy: "none" } });
const vercel = createOpenAI({ baseURL, apiKey });

async function raised(stream) {
  try {
    for await (const _ of await stream);
  } catch (error) {
    return [error.constructor.name, error.message, error.code];
  }
}

async function told(stream, by) {
  let last;
  for await (const event of await stream) last = event;
  return by(last);
}

async function vercels(model) {
  const told = [];
  const stream = streamText({ model, messages, maxRetries: 0, onError: ({ error }) => told.push(error.message) });
  for await (const _ of stream.textStream);
  return [told, await stream.finishReason];
}

console.log(
  JSON.stringify({
    node: {
      chat: await raised(node.chat.completions.create({ model: "m", messages, stream: true })),
      responses: await raised(node.responses.create({ model: "m", input: "hi", stream: true })),
    },
    openrouter: {
      chat: await told(openrouter.chat.send({ chatRequest: { model: "m", messages, stream: true } }), (chunk) => [
        chunk.error.code,
        chunk.error.message,
        chunk.error.metadata.errorType,
        chunk.choices[0].finishReason,
      ]),
      responses: await told(
        openrouter.responses.send({ responsesRequest: { model: "m", input: "hi", stream: true } }),
        (event) => [event.type, event.response.error.message],
      ),
    },
    vercel: {
      compatible: await vercels(createOpenAICompatible({ name: "bridge", baseURL, apiKey }).chatModel("m")),
      openrouter: await vercels(createOpenRouter({ baseURL, apiKey, compatibility: "strict" }).chat("m")),
      chat: await vercels(vercel.chat("m")),
      responses: await vercels(vercel.responses("m")),
      messages: await vercels(createAnthropic({ baseURL, apiKey })("m")),
    },
  }),
);
