// node-redis in its ordinary standalone mode: node node_redis_test.js HOST PORT
'use strict';
const { load, run, check, finish } = require('./checks.js');
const { createClient, RESP_TYPES } = load('redis');

async function main() {
  const client = createClient({
    name: 'node-redis-test',
    RESP: Number(process.env.RCPROXY_RESP || 2),
    socket: { host: process.argv[2], port: Number(process.argv[3]), reconnectStrategy: false },
  });
  client.on('error', (error) => { throw error; });
  await client.connect();
  check(await client.ping(), 'PONG', 'PING');
  check(await client.clientGetName(), 'node-redis-test', 'name');
  // Its own methods, with what they make of replies.
  await client.del('own');
  await client.hSet('own', { a: 1 });
  check({ ...await client.hGetAll('own') }, { a: '1' }, 'hGetAll');
  check(await client.set('ttl', 'x', { EX: 100, NX: true }), 'OK', 'set with options');
  check(await client.del('ttl'), 1, 'del');
  const asBuffers = { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } };
  await run({
    send: (args) => client.sendCommand(args),
    sendBuffer: (args) => client.sendCommand(args, asBuffers),
    // Commands issued in one tick go out as one pipeline.
    pipeline: (commands) => Promise.all(commands.map((args) => client.sendCommand(args))),
  });
  await client.close();
  finish();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
