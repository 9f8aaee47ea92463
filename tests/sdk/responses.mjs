// OpenAI's Responses API by the official client for Node. Prints what it gave as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY });
const input = [{ role: "user", content: "What is the weather in Paris?" }];
const tools = [
  {
    type: "function",
    name: "weather",
    description: "Tell the weather.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    strict: false,
  },
];

const whole = await client.responses.create({ model: "m", input });
let streamed = "";
let last;
for await (const event of await client.responses.create({ model: "m", input, stream: true })) {
  if (event.type === "response.output_text.delta") streamed += event.delta;
  last = event.type;
}
const first = await client.responses.create({ model: "m", input, tools });
const call = first.output.find((item) => item.type === "function_call");
const after = await client.responses.create({
  model: "m",
  input: [...input, ...first.output, { type: "function_call_output", call_id: call.call_id, output: "sunny" }],
  tools,
});

let refused;
try {
  await client.responses.create({ model: "none", input });
} catch (error) {
  refused = [error.constructor.name, error.status];
}

console.log(
  JSON.stringify({
    whole: whole.output_text,
    usage: [whole.usage.input_tokens, whole.usage.output_tokens],
    streamed,
    last,
    tool: [call.name, JSON.parse(call.arguments)],
    after: after.output_text,
    refused,
  }),
);
