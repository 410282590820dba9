// openai-node's WebSockets: URL and KEY in the environment; prints the types of the messages of two turns on each API.
import OpenAI from 'openai'
import { OpenAIRealtimeWS } from 'openai/realtime/ws'
import { ResponsesWS } from 'openai/resources/responses/ws'

const { URL: url, KEY: key } = process.env
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 })

function turns (connection, last, begin, wanted) {
  return new Promise((resolve, reject) => {
    const seen = []
    let ended = 0
    const note = event => {
      seen.push(event.type)
      if (event.type !== last) return
      ended += 1
      if (ended < wanted) return begin()
      connection.close()
      resolve(seen)
    }
    connection.on('event', note)
    connection.on('error', error => reject(new Error(error.message)))
    begin()
  })
}

async function responses () {
  const connection = new ResponsesWS(client)
  const begin = () => connection.send({ type: 'response.create', model: 'gpt-4o', input: 'hello' })
  return turns(connection, 'response.completed', begin, 2)
}

async function realtime () {
  const connection = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, client)
  await new Promise((resolve, reject) => {
    connection.socket.addEventListener('open', resolve)
    connection.socket.addEventListener('error', reject)
  })
  return turns(connection, 'response.done', () => connection.send({ type: 'response.create' }), 2)
}

console.log(JSON.stringify({ responses: await responses(), realtime: await realtime() }))
