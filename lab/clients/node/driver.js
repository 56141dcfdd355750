// A worker process for kafkajs: lines of JSON in, lines of JSON out.
// The operations are those of labkit/serve.py.
'use strict'
const path = require('path')
const modules = path.join(__dirname, '../../.cache/node/node_modules')
const { Kafka, logLevel, CompressionTypes, CompressionCodecs, Partitioners } = require(path.join(modules, 'kafkajs'))
const snappy = require(path.join(modules, 'snappy'))
const lz4 = require(path.join(modules, 'lz4-napi'))
const zstd = require(path.join(modules, '@bokuweb/zstd-wasm'))
const readline = require('readline')

const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])

CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async encoder => {
    const block = await snappy.compress(encoder.buffer)
    const frame = Buffer.alloc(20)
    XERIAL.copy(frame)
    frame.writeInt32BE(1, 8)
    frame.writeInt32BE(1, 12)
    frame.writeInt32BE(block.length, 16)
    return Buffer.concat([frame, block])
  },
  decompress: async buffer => {
    if (!buffer.subarray(0, 8).equals(XERIAL)) return snappy.uncompress(buffer)
    const blocks = []
    for (let at = 16; at < buffer.length;) {
      const size = buffer.readInt32BE(at)
      blocks.push(await snappy.uncompress(buffer.subarray(at + 4, at + 4 + size)))
      at += 4 + size
    }
    return Buffer.concat(blocks)
  },
})
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => lz4.compressFrame(encoder.buffer),
  decompress: async buffer => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})

const CODECS = {
  none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD,
}
const emit = answer => process.stdout.write(JSON.stringify(answer) + '\n')
const unb64 = text => (text === null ? null : Buffer.from(text, 'base64'))
const b64 = data => (data === null || data === undefined ? null : Buffer.from(data).toString('base64'))
const client = (request, more = {}) => new Kafka({
  clientId: 'lab', brokers: [request.bootstrap], logLevel: logLevel.NOTHING,
  retry: { retries: 8, initialRetryTime: 100, maxRetryTime: 1000 }, ...more,
})

function headersIn (pairs) {
  const out = {}
  for (const [name, value] of pairs || []) {
    const content = unb64(value)
    if (name in out) out[name] = [].concat(out[name], [content])
    else out[name] = content
  }
  return out
}

function headersOut (headers) {
  return Object.entries(headers || {}).flatMap(([name, values]) =>
    [].concat(values).map(value => [name, b64(value)]))
}

async function produce (request) {
  const producer = client(request).producer({
    createPartitioner: Partitioners.DefaultPartitioner, idempotent: !!request.idempotent,
    ...(request.idempotent ? { maxInFlightRequests: 1 } : {}),
  })
  await producer.connect()
  try {
    const answers = await producer.send({
      topic: request.topic, acks: -1, compression: CODECS[request.codec || 'none'],
      messages: request.records.map(r => ({
        key: unb64(r.k), value: unb64(r.v), headers: headersIn(r.h),
        ...(r.p === undefined ? {} : { partition: r.p }), ...(r.t === undefined ? {} : { timestamp: String(r.t) }),
      })),
    })
    // kafkajs tells only the first offset of each partition.
    const next = Object.fromEntries(answers.map(a => [a.partition, Number(a.baseOffset)]))
    const offsets = request.records.every(r => r.p !== undefined)
      ? request.records.map(r => [r.p, next[r.p]++])
      : null
    return { offsets }
  } finally {
    await producer.disconnect()
  }
}

// kafkajs reads only as a group, so each step is a group of its own which
// seeks the one partition and ignores the rest.
async function consume (request, note) {
  const kafka = client(request)
  const partition = request.partition || 0
  const admin = kafka.admin()
  await admin.connect()
  const records = []
  const consumer = kafka.consumer({
    groupId: `kafkajs-${process.pid}-${process.hrtime.bigint()}`, sessionTimeout: 10000, maxWaitTimeInMs: 100,
    maxBytesPerPartition: 4 << 20,
  })
  try {
    const find = async from => {
      const bounds = async () => (await admin.fetchTopicOffsets(request.topic)).find(o => o.partition === partition)
      if (from === 'beginning') return Number((await bounds()).low)
      if (from === 'end') return Number((await bounds()).high)
      if ('offset' in from) return from.offset
      const found = (await admin.fetchTopicOffsetsByTimestamp(request.topic, from.time)).find(o => o.partition === partition)
      return Number(found.offset)
    }
    const starts = []
    for (const step of request.steps) starts.push(await find(step.from))
    await consumer.connect()
    await consumer.subscribe({ topic: request.topic, fromBeginning: true })
    await new Promise((resolve, reject) => {
      let step = 0
      let got = 0
      let wanted = starts[0]
      const timer = setTimeout(() => reject(new Error(`${records.length} records came in time`)), request.timeout_ms || 20000)
      consumer.on(consumer.events.CRASH, event => { clearTimeout(timer); reject(event.payload.error) })
      consumer.run({
        autoCommit: false,
        eachMessage: async ({ partition: p, message }) => {
          if (p !== partition || step >= starts.length) return
          const offset = Number(message.offset)
          if (wanted !== null && (offset < wanted || offset > wanted + (request.gap || 0))) return
          wanted = null
          got += 1
          records.push({
            p, o: offset, t: Number(message.timestamp), k: b64(message.key), v: b64(message.value),
            h: headersOut(message.headers),
          })
          if (got === request.steps[step].count) {
            step += 1
            got = 0
            if (step === starts.length) {
              clearTimeout(timer)
              resolve()
            } else {
              wanted = starts[step]
              consumer.seek({ topic: request.topic, partition, offset: String(wanted) })
            }
          }
        },
      }).catch(reject)
      consumer.seek({ topic: request.topic, partition, offset: String(starts[0]) })
      if (request.steps[0].from === 'end') note('positioned')
    })
  } finally {
    await consumer.disconnect()
    await admin.disconnect()
  }
  return { records }
}

const members = {}

async function memberStart (request) {
  const consumer = client(request).consumer({
    groupId: request.group, sessionTimeout: request.session_timeout_ms, rebalanceTimeout: 10000,
    heartbeatInterval: Math.floor(request.session_timeout_ms / 5), maxWaitTimeInMs: 100,
  })
  members[request.member] = consumer
  const event = (ev, more) => emit({ member: request.member, ev, ...more })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => event('assigned', {
    partitions: Object.entries(payload.memberAssignment).flatMap(([t, ps]) => ps.map(p => [t, p]))
      .sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1])),
  }))
  consumer.on(consumer.events.REBALANCING, () => event('assigned', { partitions: [], revoked: true }))
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) event('error', { error: String(payload.error) })
  })
  await consumer.connect()
  await consumer.subscribe({ topics: request.topics, fromBeginning: (request.reset || 'earliest') === 'earliest' })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
      if (!isRunning() || isStale()) return
      const rows = batch.messages.map(m => [batch.topic, batch.partition, Number(m.offset), (m.value || '').toString()])
      event('records', { records: rows })
      for (const m of batch.messages) resolveOffset(m.offset)
      if (request.commit !== false) {
        const offset = String(Number(batch.lastOffset()) + 1)
        await consumer.commitOffsets([{ topic: batch.topic, partition: batch.partition, offset }])
      }
      await heartbeat()
    },
  })
}

async function memberStop (request) {
  const consumer = members[request.member]
  delete members[request.member]
  await consumer.disconnect()
  emit({ member: request.member, ev: 'left' })
}

async function txn (request) {
  const from = process.hrtime.bigint()
  const producer = client(request, { retry: { retries: 3, initialRetryTime: 100 } })
    .producer({ transactionalId: request.transactional_id, idempotent: true, maxInFlightRequests: 1 })
  try {
    await producer.connect()
    const transaction = await producer.transaction()
    await transaction.abort()
  } catch (error) {
    error.elapsedMs = Number((process.hrtime.bigint() - from) / 1000000n)
    throw error
  } finally {
    await producer.disconnect()
  }
  return {}
}

async function handle (request) {
  try {
    let answer
    if (request.op === 'produce') answer = await produce(request)
    else if (request.op === 'consume') answer = await consume(request, ev => emit({ id: request.id, ev }))
    else if (request.op === 'member_start') answer = await memberStart(request)
    else if (request.op === 'member_stop') answer = await memberStop(request)
    else if (request.op === 'txn') answer = await txn(request)
    else throw new Error(`no operation named ${request.op}`)
    emit({ id: request.id, ok: true, ...answer })
  } catch (error) {
    console.error(error)
    emit({
      id: request.id, ok: false, error: `${error.type || error.name}: ${error.message}`, retriable: !!error.retriable,
      elapsed_ms: error.elapsedMs,
    })
  }
}

zstd.init().then(() => {
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', line => handle(JSON.parse(line)))
  lines.on('close', () => process.exit(0))
})
