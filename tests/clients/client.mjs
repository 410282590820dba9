// One vendor's SDK for Node: NAME, URL and KEY in the environment; prints what it made of a response, a stream, a tool
// call and an error of the provider's, as JSON. With CANCEL it leaves a slow stream after the first chunk instead.
const { NAME, URL: url, KEY: key } = process.env
const question = [{ role: 'user', content: 'What is the weather in Paris?' }]
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const tools = [{ type: 'function', function: { name: 'weather', description: 'Weather', parameters } }]

// Node 18's fetch throws outside any promise when bytes of a response come after its reader has left (Mistral's client
// leaves at `[DONE]`); later versions of Node do not.
process.on('uncaughtException', error => {
  if (error.code !== 'ERR_INVALID_STATE' || !process.version.startsWith('v18.')) throw error
})

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
    open: headers => create({ stream: true }, headers),
    text: chunk => chunk.choices[0]?.delta?.content ?? '',
    tool: async () => (await create({ tools }, plan({ tool: true }))).choices[0].message.tool_calls[0].function
  }
}

async function vercel (model) {
  const { generateText, jsonSchema, streamText, tool } = await import('ai')
  const options = { prompt: 'Paris?', maxRetries: 0 }
  const weather = tool({ description: 'Weather', inputSchema: jsonSchema(parameters) })
  return {
    ask: async headers => (await generateText({ model: model(headers), ...options })).text,
    open: async headers => streamText({ model: model(headers), ...options }).textStream,
    text: text => text,
    tool: async () => {
      const asked = { model: model(plan({ tool: true })), ...options, tools: { weather } }
      const { toolName, input } = (await generateText(asked)).toolCalls[0]
      return { toolName, input }
    }
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
      open: headers => client.messages.create({ ...base, stream: true }, { headers }),
      text: event => event.delta?.text ?? '',
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
      open: headers => client(headers).models.generateContentStream(asked),
      text: chunk => chunk.text ?? '',
      tool: async () => (await client(plan({ tool: true })).models.generateContent({ ...asked, config })).functionCalls
    }
  },
  mistral: async () => {
    const { Mistral } = await import('@mistralai/mistralai')
    const client = new Mistral({ serverURL: url, apiKey: key })
    const asked = { model: 'mistral-small', messages: question }
    const options = headers => ({ headers, retries: { strategy: 'none' } })
    return {
      ask: async headers => (await client.chat.complete(asked, options(headers))).choices[0].message.content,
      open: headers => client.chat.stream(asked, options(headers)),
      text: event => event.data.choices[0]?.delta?.content ?? '',
      tool: async () =>
        (await client.chat.complete({ ...asked, tools }, options(plan({ tool: true })))).choices[0].message.toolCalls[0].function
    }
  },
  vercel: async () => {
    const { createOpenAI } = await import('@ai-sdk/openai')
    return vercel(headers => createOpenAI({ baseURL: `${url}/v1`, apiKey: key, headers }).chat('gpt-4o'))
  },
  'vercel-anthropic': async () => {
    const { createAnthropic } = await import('@ai-sdk/anthropic')
    return vercel(headers => createAnthropic({ baseURL: `${url}/v1`, apiKey: key, headers })('claude-sonnet-4-5'))
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
if (process.env.CANCEL) {
  for await (const chunk of await client.open(plan({ interval: 0.2, events: 200 }))) {
    console.log(JSON.stringify({ first: client.text(chunk) }))
    break
  }
  process.exit(0)
}
const found = { ask: await client.ask(), stream: await collect(await client.open(), client.text), tool: await client.tool() }
found.error = await refused(plan({ status: 429 }))
console.log(JSON.stringify(found))
