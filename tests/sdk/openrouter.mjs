// OpenRouter's own SDK: everything that this gateway has of OpenRouter's paths. Prints what was given as JSON.
import { OpenRouter } from "@openrouter/sdk";

const { BASE_URL: serverURL, API_KEY: apiKey } = process.env;
const make = (apiKey) => new OpenRouter({ apiKey, serverURL, retryConfig: { strategy: "none" } });
const client = make(apiKey);
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", description: "Tell the weather.", parameters } }];
const ask = (fields, by = client) => by.chat.send({ chatRequest: { model: "m", messages, ...fields } });

async function read(stream) {
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, usage };
}

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return [error.name, error.statusCode, error.error?.code, error.error?.metadata?.code, error.message.split(" ")[0]];
  }
}

const whole = await ask({});
const streamed = await read(await ask({ stream: true }));
const asked = await read(await ask({ stream: true, streamOptions: { includeUsage: true } }));
const called = await ask({ tools });
const response = await client.responses.send({ responsesRequest: { model: "m", input: "hi" } });
let completed;
for await (const event of await client.responses.send({ responsesRequest: { model: "m", input: "hi", stream: true } })) {
  if (event.type === "response.completed") completed = event.response.usage.costDetails;
}
const vectors = await client.embeddings.generate({ requestBody: { model: "e", input: "hi" } });
const listed = (await client.models.list()).result ?? (await client.models.list());
const generation = (await client.generations.getGeneration({ id: whole.id })).data;
const key = (await client.apiKeys.getCurrentKeyMetadata()).data;
const credits = (await client.credits.getCredits()).data;
console.log(
  JSON.stringify({
    text: whole.choices[0].message.content,
    costs: [whole.usage.cost, whole.usage.costDetails],
    streamed: streamed.text,
    streamedCosts: streamed.usage.costDetails,
    asked: [asked.text, asked.usage.cost],
    called: called.choices[0].message.toolCalls[0].function,
    response: response.usage.costDetails,
    completed,
    vector: vectors.data[0].embedding,
    models: listed.data.map((model) => [model.id, model.contextLength, model.pricing.prompt, model.pricing.completion]),
    generation: [generation.id, generation.totalCost, generation.apiType],
    key: key.usage,
    credits: [credits.totalCredits, credits.totalUsage],
    wrongKey: await refused(() => ask({}, make("tb_live_wrong"))),
    wrongModel: await refused(() => ask({ model: "none" })),
    wrongBody: await refused(() => ask({ messages: [] })),
  }),
);
