// One vendor's SDK for Node: NAME, URL and KEY in the environment; prints what it made of a response, a stream, a tool
// call, an error of the provider's and a refusal, as JSON.
const { NAME, URL: url, KEY: key } = process.env
const question = [{ role: 'user', content: 'What is the weather in Paris?' }]
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const tools = [{ type: 'function', function: { name: 'weather', description: 'Weather', parameters } }]
const plan = fields => ({ 'X-Simulate': JSON.stringify(fields) })

async function collect (stream, text) {
  const found = []
  for await (const chunk of stream) found.push(text(chunk))
  return found.join('')
}

function chat (client) {
  const create = (more, headers = {}) =>
    client.chat.completions.create({ model: 'gpt-4o', messages: question, ...more }, { headers })
  return {
    ask: async headers => (await create({}, headers)).choices[0].message.content,
    stream: async () => collect(await create({ stream: true }), chunk => chunk.choices[0]?.delta?.content ?? ''),
    tool: async () => (await create({ tools }, plan({ tool: true }))).choices[0].message.tool_calls[0].function
  }
}

const makers = {
  openai: async () => chat(new (await import('openai')).default({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 })),
  azure: async () => {
    const { AzureOpenAI } = await import('openai')
    return chat(new AzureOpenAI({ endpoint: url, apiKey: key, apiVersion: '2024-10-21', deployment: 'gpt-4o', maxRetries: 0 }))
  },
  groq: async () => chat(new (await import('groq-sdk')).default({ baseURL: url, apiKey: key, maxRetries: 0 })),
  anthropic: async () => {
    const client = new (await import('@anthropic-ai/sdk')).default({ baseURL: url, apiKey: key, maxRetries: 0 })
    const base = { model: 'claude-sonnet-4-5', max_tokens: 30, messages: question }
    const tool = { name: 'weather', description: 'Weather', input_schema: parameters }
    return {
      ask: async headers => (await client.messages.create(base, { headers })).content[0].text,
      stream: async () => collect(await client.messages.create({ ...base, stream: true }), event => event.delta?.text ?? ''),
      tool: async () => (await client.messages.create({ ...base, tools: [tool] }, { headers: plan({ tool: true }) })).content[0]
    }
  },
  google: async () => {
    const { GoogleGenAI } = await import('@google/genai')
    const client = headers => new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: url, headers } })
    const asked = { model: 'gemini-2.5-flash', contents: 'Paris?' }
    const config = { tools: [{ functionDeclarations: [{ name: 'weather', parametersJsonSchema: parameters }] }] }
    return {
      ask: async headers => (await client(headers).models.generateContent(asked)).text,
      stream: async () => collect(await client().models.generateContentStream(asked), chunk => chunk.text ?? ''),
      tool: async () => (await client(plan({ tool: true })).models.generateContent({ ...asked, config })).functionCalls
    }
  },
  vercel: async () => {
    const { generateText, streamText } = await import('ai')
    const { createOpenAI } = await import('@ai-sdk/openai')
    const model = headers => createOpenAI({ baseURL: `${url}/v1`, apiKey: key, headers }).chat('gpt-4o')
    const options = { prompt: 'Paris?', maxRetries: 0 }
    return {
      ask: async headers => (await generateText({ model: model(headers), ...options })).text,
      stream: async () => collect(streamText({ model: model(), ...options }).textStream, text => text),
      tool: async () => null
    }
  }
}

const client = await makers[NAME]()
async function refused (headers) {
  try {
    return await client.ask(headers)
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? error.statusCode }
  }
}
const found = { ask: await client.ask(), stream: await client.stream(), tool: await client.tool() }
found.error = await refused(plan({ status: 429 }))
console.log(JSON.stringify(found))
