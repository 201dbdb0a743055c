// What node-redis offers in its ordinary standalone mode: node node_redis.js HOST PORT [4|5] [2|3]
// The third is the major version of the package, the fourth the protocol.
'use strict';
const { load, host, port, rounds, check, checkThat, checkFails, until, count, run } =
  require('./check.js');

const version = Number(process.argv[4] || 5);
const RESP = Number(process.argv[5] || 2);
const redis = load(version === 4 ? 'redis4' : 'redis');
const { createClient, defineScript, WatchError } = redis;

const addAll = defineScript({
  SCRIPT: `local sum = 0
    for _, key in ipairs(KEYS) do sum = sum + redis.call('INCRBY', key, ARGV[1]) end
    return sum`,
  NUMBER_OF_KEYS: 2,
  ...(version === 4 ? {
    transformArguments: (one, two, n) => [one, two, `${n}`],
    transformReply: (reply) => reply,
  } : {
    parseCommand: (parser, one, two, n) => { parser.pushKey(one); parser.pushKey(two); parser.push(`${n}`); },
    transformReply: (reply) => reply,
  }),
});

const library = {
  mine: {
    twice: {
      NUMBER_OF_KEYS: 1,
      FIRST_KEY_INDEX: 0,
      ...(version === 4 ? { transformArguments: (key) => [key] } :
        { parseCommand: (parser, key) => parser.pushKey(key) }),
      transformReply: (reply) => reply,
    },
  },
};

const open = [];
async function connect(options = {}) {
  const client = createClient({
    socket: { host, port }, ...(version === 4 ? {} : { RESP, unstableResp3: true }),
    scripts: { addAll }, functions: library, ...options,
  });
  client.on('error', (error) => { throw error; });
  await client.connect();
  open.push(client);
  return client;
}

const plain = (value) => JSON.parse(JSON.stringify(value));
const end = (client) => (version === 4 ? client.quit() : client.close());

async function commands(client) {
  check(await client.ping(), 'PONG', 'ping');
  check(await client.clientGetName(), 'node-redis', 'name');
  checkThat(/redis_mode:standalone/.test(await client.info()), 'info');
  await client.del(['n:h', 'n:z', 'n:s', 'n:x', 'n:l']);
  check(await client.hSet('n:h', { a: 1, b: 'é' }), 2, 'hSet');
  check(plain(await client.hGetAll('n:h')), { a: '1', b: 'é' }, 'hGetAll');
  check(await client.zAdd('n:z', [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]), 2, 'zAdd');
  check(plain(await client.zRangeWithScores('n:z', 0, -1)),
    [{ value: 'a', score: 1.5 }, { value: 'b', score: 2 }], 'zRangeWithScores');
  check(await client.zScore('n:z', 'a'), 1.5, 'zScore');
  await client.sAdd('n:s', ['x', 'y']);
  check([...await client.sMembers('n:s')].sort(), ['x', 'y'], 'sMembers');
  check(await client.xAdd('n:x', '1-1', { f: 'v' }), '1-1', 'xAdd');
  check(plain(await client.xRange('n:x', '-', '+')), [{ id: '1-1', message: { f: 'v' } }], 'xRange');
  const many = count(50).map((i) => `n:${i}`);
  check(await client.mSet(Object.fromEntries(many.map((key, i) => [key, `${i}`]))), 'OK', 'mSet');
  check(await client.mGet([...many, 'n:none']), [...count(50).map(String), null], 'mGet');
  check(await client.set('n:t', 'x', { EX: 100, NX: true }), 'OK', 'set');
  check(await client.set('n:t', 'x', { EX: 100, NX: true }), null, 'set NX');
  check(await client.del([...many, 'n:t']), 51, 'del');
  await checkFails(client.lPush('n:h', 'x'), /WRONGTYPE/, 'WRONGTYPE');
  const n = 2000 * rounds;
  check(await Promise.all(count(n).map((i) => client.incr(`n:i${i % 40}`))),
    count(n).map((i) => Math.floor(i / 40) + 1), 'pipelines');
  await client.del(count(40).map((i) => `n:i${i}`));
}

async function transactions(client) {
  check(await client.multi().set('{t}x', '1').incr('{t}x').get('{t}x').exec(), ['OK', 2, '2'], 'multi');
  check(await client.multi().set('n:1', '1').get('n:2').execAsPipeline(), ['OK', null], 'execAsPipeline');
  check(await client.multi().hSet('{t}h', 'a', 1).hGetAll('{t}h').exec().then((replies) =>
    plain(replies[1])), { a: '1' }, 'typed replies');
  // Optimistic locking: of all increments none is lost.
  await client.set('{t}n', 0);
  const n = 20 * rounds;
  let repeated = 0;
  await Promise.all(count(4).map(async () => {
    const own = await connect();
    for (let i = 0; i < n;) {
      await own.watch('{t}n');
      const value = Number(await own.get('{t}n'));
      try {
        check(await own.multi().set('{t}n', value + 1).exec(), ['OK'], 'exec');
        i++;
      } catch (error) {
        if (!(error instanceof WatchError)) throw error;
        repeated++;
      }
    }
  }));
  check(Number(await client.get('{t}n')), 4 * n, 'WATCH');
  checkThat(repeated > 0, 'some were repeated');
  await client.del('{t}h');
}

async function scripts(client) {
  await client.del(['{s}1', '{s}2']);
  check(await client.addAll('{s}1', '{s}2', 5), 10, 'defineScript');
  check(await client.multi().addAll('{s}1', '{s}2', 1).exec(), [12], 'in MULTI');
  check(await client.scriptFlush(), 'OK', 'scriptFlush');
  check(await client.addAll('{s}1', '{s}2', 1), 14, 'after SCRIPT FLUSH');
  const code = `#!lua name=mine
    redis.register_function{function_name = 'twice', callback = function(keys)
      return redis.call('GET', keys[1]) * 2 end, flags = {'no-writes'}}`;
  check(await client.functionLoad(code, { REPLACE: true }), 'mine', 'functionLoad');
  for (const i of count(20)) {
    await client.set(`f:${i}`, i);
    check(await client.mine.twice(`f:${i}`), 2 * i, 'a function, on all primaries');
  }
  check(await client.functionDelete('mine'), 'OK', 'functionDelete');
}

async function iterators(client) {
  const wanted = count(300 * rounds).map((i) => `scan:${i}`);
  await client.mSet(wanted.flatMap((key) => [[key, '1']]));
  const scanned = new Set();
  for await (const some of client.scanIterator({ MATCH: 'scan:*', COUNT: 50 })) {
    for (const key of [some].flat()) scanned.add(key);
  }
  check([...scanned].sort(), wanted.sort(), 'scanIterator');
  check(await client.del(wanted), wanted.length, 'del');
  await client.del(['i:h', 'i:s', 'i:z']);
  await Promise.all(count(1000).flatMap((i) => [client.hSet('i:h', `${i}`, 1),
    client.sAdd('i:s', `${i}`), client.zAdd('i:z', { score: i, value: `${i}` })]));
  for (const iterator of [client.hScanIterator('i:h'), client.sScanIterator('i:s'),
    client.zScanIterator('i:z')]) {
    const found = new Set();
    for await (const some of iterator) {
      for (const it of [some].flat()) found.add(it.field || it.value || it);
    }
    check(found.size, 1000, 'iterators');
  }
}

async function pubSub(client) {
  const sub = client.duplicate();
  sub.on('error', (error) => { throw error; });
  await sub.connect();
  open.push(sub);
  const got = [];
  const note = (text, channel) => got.push(`${channel}:${text}`);
  await sub.subscribe(['news', 'other'], note);
  await sub.subscribe('other', (bytes) => got.push(bytes), true);
  await sub.pSubscribe('n?ws', note);
  await sub.sSubscribe('shard', note);
  check(await client.publish('news', 'one'), 2, 'publish');
  check(await client.publish('other', 'two'), 1, 'publish');
  check(await client.sPublish('shard', 'three'), 1, 'sPublish');
  await until(() => got.length === 5, 'five messages');
  checkThat(got.some((it) => Buffer.isBuffer(it) && it.equals(Buffer.from('two'))), 'Buffers');
  check(got.filter((it) => !Buffer.isBuffer(it)).sort(),
    ['news:one', 'news:one', 'other:two', 'shard:three'], 'messages');
  check(plain(await client.pubSubNumSub(['news', 'none'])), { news: 1, none: 0 }, 'NUMSUB');
  check(await client.pubSubNumPat(), 1, 'NUMPAT');
  // With RESP3 a subscriber may say anything else, too.
  if (RESP === 3) check(await sub.echo('x'), 'x', 'echo');
  got.length = 0;
  await sub.unsubscribe('news');
  await sub.pUnsubscribe('n?ws');
  await sub.sUnsubscribe('shard');
  const n = 1000 * rounds;
  await sub.subscribe('order', note);
  await Promise.all(count(n).map((i) => client.publish('order', `${i}`)));
  await until(() => got.length === n, `${n} messages`);
  check(got, count(n).map((i) => `order:${i}`), 'their order');
  await sub.unsubscribe();
  check(String(await sub.ping()), 'PONG', 'after all is unsubscribed');
}

async function blocking(client) {
  await client.del(['b:l', 'b:z', 'b:x']);
  const wait = async (call, wake, wanted) => {
    const own = await connect();
    const reply = call(own);
    for (const i of count(20)) check(await client.echo(`${i}`), `${i}`, 'echo');
    await wake();
    check(plain(await reply), wanted, 'blocking');
  };
  await wait((own) => own.blPop('b:l', 0), () => client.rPush('b:l', 'x'), { key: 'b:l', element: 'x' });
  await wait((own) => own.bzPopMin('b:z', 0), () => client.zAdd('b:z', { score: 1, value: 'm' }),
    { key: 'b:z', value: 'm', score: 1 });
  const entry = [{ name: 'b:x', messages: [{ id: '1-1', message: { f: 'v' } }] }];
  // RESP3's reply is a map, which version 5 hands on as it is.
  const wanted = version === 5 && RESP === 3 ? null : entry;
  const own = await connect();
  const reply = own.xRead({ key: 'b:x', id: '0' }, { BLOCK: 0 });
  await client.xAdd('b:x', '1-1', { f: 'v' });
  if (wanted) check(plain(await reply), wanted, 'xRead'); else checkThat(await reply, 'xRead');
  check(await client.blPop('b:l', 0.05), null, 'a timeout');
}

run(async () => {
  const client = await connect({ name: 'node-redis' });
  await commands(client);
  await transactions(client);
  await scripts(client);
  await iterators(client);
  await pubSub(client);
  await blocking(client);
  if (version === 4) {
    const isolated = await client.executeIsolated(async (own) => own.echo('isolated'));
    check(isolated, 'isolated', 'executeIsolated');
  } else {
    const pool = redis.createClientPool({ socket: { host, port }, RESP }, { minimum: 1, maximum: 5 });
    pool.on('error', (error) => { throw error; });
    await pool.connect();
    check(await Promise.all(count(100).map((i) => pool.echo(`${i}`))), count(100).map(String), 'pool');
    await pool.close();
  }
  await Promise.all(open.map(end));
});
