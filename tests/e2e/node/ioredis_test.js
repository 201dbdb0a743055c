// ioredis in its ordinary standalone mode: node ioredis_test.js HOST PORT
'use strict';
const { load, run, check, finish } = require('./checks.js');
const Redis = load('ioredis');

async function main() {
  const redis = new Redis({
    host: process.argv[2],
    port: Number(process.argv[3]),
    connectionName: 'ioredis-test',
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  redis.on('error', (error) => { throw error; });
  check(await redis.ping(), 'PONG', 'PING');
  check(await redis.client('GETNAME'), 'ioredis-test', 'connectionName');
  // Its own methods, with what they make of replies.
  await redis.del('own');
  await redis.hset('own', { a: 1 });
  check(await redis.hgetall('own'), { a: '1' }, 'hgetall');
  check(await redis.set('ttl', 'x', 'EX', 100, 'NX'), 'OK', 'set with options');
  check(await redis.del('ttl'), 1, 'del');
  await run({
    send: ([name, ...args]) => redis.call(name, ...args),
    sendBuffer: ([name, ...args]) => redis.callBuffer(name, ...args),
    pipeline: async (commands) => {
      const replies = await redis.pipeline(commands.map(([name, ...args]) =>
        [name.toLowerCase(), ...args])).exec();
      return replies.map(([error, reply]) => {
        if (error) throw error;
        return reply;
      });
    },
  });
  check(await redis.quit(), 'OK', 'QUIT');
  finish();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
