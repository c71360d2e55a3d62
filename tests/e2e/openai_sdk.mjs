// Asks a gateway with OpenAI's SDK for Node, and prints what it heard as JSON, for
// test_node_sdk.py: node openai_sdk.mjs SDK_FOLDER BASE_URL CASE

import { createRequire } from "node:module";

const [folder, baseURL, name] = process.argv.slice(2);
const { default: OpenAI } = createRequire(`${folder}/`)("openai");
const client = new OpenAI({ baseURL, apiKey: "unused" });
const messages = [{ role: "user", content: "Hi there" }];

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

// What an error of the SDK says, and of which class it is.
async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    const { status, code, requestID } = error;
    return { name: error.constructor.name, status, code, requestID };
  }
  return null;
}

const cases = {
  async chat() {
    const asked = { model: "tiny", messages, max_tokens: 20, temperature: 0 };
    const whole = await client.chat.completions.create(asked);
    const events = await all(await client.chat.completions.create({ ...asked, stream: true }));
    const helper = client.chat.completions.stream(asked);
    const final = await helper.finalChatCompletion();
    return {
      whole: whole.choices[0].message.content,
      streamed: events.map((event) => event.choices[0].delta.content ?? "").join(""),
      final: final.choices[0].message.content,
      usage: events.filter((event) => event.usage).length,
    };
  },

  async responses() {
    const asked = { model: "tiny", input: "Hello", max_output_tokens: 20, temperature: 0 };
    const events = await all(await client.responses.create({ ...asked, stream: true }));
    const last = events.at(-1);
    const again = await client.responses.retrieve(last.response.id);
    const next = await client.responses.create({ ...asked, previous_response_id: again.id });
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    return {
      last: last.type,
      streamed: deltas.map((event) => event.delta).join(""),
      again: again.output_text,
      tokens: [again.usage.input_tokens, next.usage.input_tokens],
    };
  },

  async embeddings() {
    const input = ["Hello", "weather"];
    const packed = await client.embeddings.create({ model: "tiny", input });
    const plain = await client.embeddings.create({
      model: "tiny",
      input,
      encoding_format: "float",
    });
    const vectors = (answer) => answer.data.map((each) => Array.from(each.embedding));
    return { packed: vectors(packed), plain: vectors(plain) };
  },

  async cancelled() {
    const asked = { model: "tiny", input: "Hello", max_output_tokens: 1000, background: true };
    const made = await client.responses.create(asked);
    const cancelled = await client.responses.cancel(made.id);
    return { same: cancelled.id === made.id, status: cancelled.status };
  },

  async sound() {
    const spoken = { model: "tiny", voice: "alloy", input: "Hello there", response_format: "wav" };
    const bytes = Buffer.from(await (await client.audio.speech.create(spoken)).arrayBuffer());
    const file = () => new File([bytes], "hello.wav");
    const { transcriptions, translations } = client.audio;
    const events = await all(
      await transcriptions.create({ model: "tiny", file: file(), stream: true }),
    );
    return {
      magic: bytes.toString("latin1", 0, 4),
      whole: (await transcriptions.create({ model: "tiny", file: file() })).text,
      streamed: events.map((event) => event.choices[0].delta.content ?? "").join(""),
      translated: (await translations.create({ model: "tiny", file: file() })).text,
    };
  },

  async errors() {
    const chat = (fields) => client.chat.completions.create({ model: "tiny", messages, ...fields });
    return {
      unknown: await refusal(chat({ model: "nope" })),
      refused: await refusal(chat({ temperature: -1, stream: true })),
      missing: await refusal(client.responses.retrieve("resp_nope")),
    };
  },
};

console.log(JSON.stringify(await cases[name]()));
