// Chat, streamed chat, embeddings, models, a file and audio, by the stock client; prints one JSON line.
import { File as BufferFile } from "node:buffer";

globalThis.File ??= BufferFile; // Node 18 has no global one, which the client asks for when it is loaded
const { default: OpenAI, toFile } = await import("openai");

const client = new OpenAI({ apiKey: process.env.TOKEN, baseURL: process.env.BASE_URL, maxRetries: 0 });
const question = { model: "gpt-4o", messages: [{ role: "user", content: "hello" }] };
const chat = await client.chat.completions.create(question);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const embedding = await client.embeddings.create({ model: "text-embedding-3-small", input: "hello" });
const models = await client.models.list();
const file = await client.files.create({ file: await toFile(Buffer.from("{}\n"), "a.jsonl"), purpose: "batch" });
const speech = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hello" });
console.log(JSON.stringify({
  chat: chat.choices[0].message.content,
  streamed,
  dimensions: embedding.data[0].embedding.length,
  models: models.data.length,
  file: file.filename,
  audio_bytes: (await speech.arrayBuffer()).byteLength,
}));
