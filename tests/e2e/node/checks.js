// What the scripts of both libraries check, over a small table of their calls.
'use strict';
const crypto = require('crypto');
const { load, check, finish } = require('../../../tools/apps/check.js');

Object.assign(exports, { load, check, finish });

const digest = (bytes) => crypto.createHash('sha1').update(bytes).digest('hex');

// Keys of different slots.
const keys = Array.from({ length: 40 }, (_, i) => `node:${process.argv[1].length}:${i}`);

// api: send(args) → reply, sendBuffer(args) → reply with Buffers,
//      pipeline([args…]) → replies in one write.
exports.run = async function run(api) {
  const { send, sendBuffer, pipeline } = api;
  await send(['DEL', ...keys, 'h', 'l']);

  // strings
  check(await send(['SET', keys[0], 'one']), 'OK', 'SET');
  check(await send(['GET', keys[0]]), 'one', 'GET');
  check(await send(['GET', 'node:none']), null, 'GET of nothing');
  check(await send(['SET', keys[1], '1']), 'OK', 'SET');
  check(await send(['INCR', keys[1]]), 2, 'INCR');
  check(await send(['APPEND', keys[0], '!']), 4, 'APPEND');

  // hashes and lists
  check(await send(['HSET', 'h', 'a', '1', 'b', '2']), 2, 'HSET');
  check(await send(['HMGET', 'h', 'b', 'none', 'a']), ['2', null, '1'], 'HMGET');
  check(await send(['RPUSH', 'l', 'x', 'y', 'z']), 3, 'RPUSH');
  check(await send(['LRANGE', 'l', '0', '-1']), ['x', 'y', 'z'], 'LRANGE');
  check(await send(['LPOP', 'l']), 'x', 'LPOP');

  // over slots
  check(await send(['MSET', ...keys.flatMap((key, i) => [key, `v${i}`])]), 'OK', 'MSET');
  check(await send(['MGET', ...keys]), keys.map((_, i) => `v${i}`), 'MGET');
  check(await send(['MGET', keys[5], 'node:none', keys[5]]), ['v5', null, 'v5'], 'MGET twice');
  check(await send(['DEL', ...keys.slice(0, 10), 'node:none']), 10, 'DEL');
  check(await send(['EXISTS', ...keys]), 30, 'EXISTS');

  // pipelines, in order
  for (let round = 0; round < 5; round++) {
    const commands = [];
    const wanted = [];
    for (let i = 0; i < 1000; i++) {
      const key = keys[i % keys.length];
      commands.push(['SET', key, `${round}:${i}`], ['GET', key], ['ECHO', `${i}`]);
      wanted.push('OK', `${round}:${i}`, `${i}`);
    }
    check(await pipeline(commands), wanted, 'pipeline');
  }

  // values from nothing to 64 MiB
  for (const size of [0, 1, 1023, 1024, 1025, 4096, 16384, 65535, 65536, 65537, 1 << 20,
    (1 << 20) + 1, 64 << 20]) {
    const value = crypto.createHash('sha1').update(`${size}`).digest();
    const large = Buffer.alloc(size, value);
    check(await send(['SET', keys[2], large]), 'OK', `SET of ${size}`);
    const got = await sendBuffer(['GET', keys[2]]);
    check(got.length, size, `GET of ${size}`);
    check(digest(got), digest(large), `bytes of ${size}`);
  }
  await send(['DEL', keys[2]]);

  // binary keys
  const everything = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  for (const key of [everything, Buffer.alloc(0), Buffer.from('\r\n'), Buffer.from([0xff, 0xfe])]) {
    check(await send(['SET', key, everything]), 'OK', 'SET of a binary key');
    const got = await sendBuffer(['GET', key]);
    check(Buffer.compare(got, everything), 0, 'GET of a binary key');
    check(await send(['DEL', key]), 1, 'DEL of a binary key');
  }
};
