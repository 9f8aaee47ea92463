// Vercel's AI SDK with a provider for it: text, streams, tools, objects. Prints what they gave as JSON.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createOpenRouter } from "@openrouter/ai-sdk-provider";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const { BASE_URL: baseURL, API_KEY: apiKey, PROVIDER } = process.env;
const named = {
  compatible: () =>
    createOpenAICompatible({ name: "bridge", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true }),
  openrouter: () => createOpenRouter({ baseURL, apiKey, compatibility: "strict" }).chat,
  chat: () => createOpenAI({ baseURL, apiKey }).chat,
  responses: () => createOpenAI({ baseURL, apiKey }).responses,
  messages: () => createAnthropic({ baseURL, apiKey }),
}[PROVIDER]();
const model = named("m");
const prompt = "What is the weather in Paris?";
const cities = [];
const tools = {
  weather: tool({
    description: "Tell the weather.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      cities.push(city);
      return "sunny";
    },
  }),
};

const whole = await generateText({ model, prompt });
const stream = streamText({ model, prompt });
let streamed = "";
for await (const part of stream.textStream) streamed += part;
const usage = await stream.usage;
const withTool = await generateText({ model, prompt, tools, stopWhen: isStepCount(3) });
const streamedTool = streamText({ model, prompt, tools, stopWhen: isStepCount(3) });
const streamedToolText = await streamedTool.text;
const object = await generateText({ model, prompt, output: Output.object({ schema: z.object({ city: z.string() }) }) });

let refused;
try {
  await generateText({ model: named("none"), prompt, maxRetries: 0 });
} catch (error) {
  refused = error.statusCode;
}

console.log(
  JSON.stringify({
    whole: whole.text,
    wholeUsage: [whole.usage.inputTokens, whole.usage.outputTokens],
    streamed,
    streamedUsage: [usage.inputTokens, usage.outputTokens],
    finish: await stream.finishReason,
    withTool: withTool.text,
    streamedTool: streamedToolText,
    cities,
    object: object.output,
    refused,
  }),
);
