// What ioredis offers in its ordinary standalone mode: node ioredis.js HOST PORT
'use strict';
const { load, host, port, rounds, check, checkThat, checkFails, until, count, run } =
  require('./check.js');
const { Redis, ReplyError } = load('ioredis');

const open = [];
function connect(options = {}) {
  const redis = new Redis({ host, port, ...options });
  redis.on('error', (error) => { throw error; });
  open.push(redis);
  return redis;
}

const keys = count(60).map((i) => `ioredis:${i}`);  // of as many slots

async function pipelines(redis) {
  const n = 500 * rounds;
  const pipeline = redis.pipeline();
  for (const i of count(n)) pipeline.set(keys[i % 60], i).get(keys[i % 60]).echo(`${i}`);
  const replies = await pipeline.exec();
  check(replies, count(n).flatMap((i) => [[null, 'OK'], [null, `${i}`], [null, `${i}`]]), 'pipeline');
  const mixed = await redis.pipeline().set('ioredis:s', 'x').lpush('ioredis:s', 1).get('ioredis:s').exec();
  check([mixed[0], mixed[2]], [[null, 'OK'], [null, 'x']], 'around an error');
  checkThat(mixed[1][0] instanceof ReplyError && /^WRONGTYPE/.test(mixed[1][0].message), 'WRONGTYPE');
  const auto = connect({ enableAutoPipelining: true });
  check(await Promise.all(count(n).map((i) => auto.get(keys[i % 60]))),
    count(n).map((i) => `${n - 60 + ((i % 60) - (n % 60) + 60) % 60}`), 'auto pipelining');
}

async function transactions(redis) {
  check(await redis.multi().set('{t}a', 1).incr('{t}a').get('{t}a').exec(),
    [[null, 'OK'], [null, 2], [null, '2']], 'multi');
  check(await redis.multi().set('{t}a', 'x').incr('{t}a').del('{t}a').exec().then((replies) =>
    replies.map(([error, reply]) => (error ? error.message : reply))),
    ['OK', 'ERR value is not an integer or out of range', 1], 'an error within');
  await checkFails(redis.multi().set('{t}a').exec(), /EXECABORT/, 'EXECABORT');
  redis.multi({ pipeline: false });
  check(await redis.set('{t}b', 1), 'QUEUED', 'without a pipeline');
  check(await redis.incr('{t}b'), 'QUEUED', 'without a pipeline');
  check(await redis.exec(), [[null, 'OK'], [null, 2]], 'without a pipeline');
  redis.multi({ pipeline: false });
  redis.set('{t}b', 5);
  check(await redis.discard(), 'OK', 'discard');
  check(await redis.get('{t}b'), '2', 'discarded');

  // Optimistic locking: of all increments none is lost.
  await redis.set('{t}n', 0);
  const n = 20 * rounds;
  let repeated = 0;
  await Promise.all(count(4).map(async () => {
    const own = redis.duplicate();
    open.push(own);
    for (let i = 0; i < n;) {
      await own.watch('{t}n');
      const value = Number(await own.get('{t}n'));
      if (await own.multi().set('{t}n', value + 1).exec()) i++; else repeated++;
    }
  }));
  check(Number(await redis.get('{t}n')), 4 * n, 'WATCH');
  checkThat(repeated > 0, 'some were repeated');
}

async function scripts(redis) {
  redis.defineCommand('addAll', { numberOfKeys: 2, lua: `
    local sum = 0
    for _, key in ipairs(KEYS) do sum = sum + redis.call('INCRBY', key, ARGV[1]) end
    return {sum, ARGV[2]}` });
  redis.defineCommand('anyKeys', { lua: 'return {#KEYS, #ARGV}', readOnly: true });
  await redis.del('{s}1', '{s}2');
  check(await redis.addAll('{s}1', '{s}2', 5, 'é'), [10, 'é'], 'defineCommand');
  check((await redis.addAllBuffer('{s}1', '{s}2', 5, 'x'))[1], Buffer.from('x'), 'Buffers');
  check(await redis.anyKeys(2, '{s}1', '{s}2', 'a', 'b', 'c'), [2, 3], 'numberOfKeys in the call');
  check(await redis.pipeline().addAll('{s}1', '{s}2', 1, 'p').anyKeys(0).exec(),
    [[null, [22, 'p']], [null, [0, 0]]], 'in a pipeline');
  check(await redis.multi().addAll('{s}1', '{s}2', 1, 'm').exec(), [[null, [24, 'm']]], 'in MULTI');
  await redis.script('FLUSH');
  check(await redis.addAll('{s}1', '{s}2', 0, 'again'), [24, 'again'], 'after SCRIPT FLUSH');
  await checkFails(redis.eval('return redis.error_reply("MY own")', 0), /MY own/, 'its own error');
}

async function streamsOfKeys(redis) {
  const wanted = count(300 * rounds).map((i) => `scan:${i}`);
  await redis.mset(...wanted.flatMap((key) => [key, 1]));
  const scanned = new Set();
  for await (const some of redis.scanStream({ match: 'scan:*', count: 50 })) {
    for (const key of some) scanned.add(key);
  }
  check([...scanned].sort(), wanted.sort(), 'scanStream');
  check(await redis.del(wanted), wanted.length, 'del');
  await redis.del('scanned:h', 'scanned:s', 'scanned:z');
  for (const i of count(10)) {
    await redis.pipeline(count(100).flatMap((j) => [['hset', 'scanned:h', 100 * i + j, 1],
      ['sadd', 'scanned:s', 100 * i + j], ['zadd', 'scanned:z', 1, 100 * i + j]])).exec();
  }
  for (const [stream, step] of [[redis.hscanStream('scanned:h'), 2],
    [redis.sscanStream('scanned:s', { match: '*' }), 1], [redis.zscanStream('scanned:z'), 2]]) {
    const found = new Set();
    for await (const some of stream) some.forEach((it, i) => i % step || found.add(it));
    check(found.size, 1000, 'hscanStream, sscanStream, zscanStream');
  }
}

async function pubSub(redis) {
  const sub = redis.duplicate();
  open.push(sub);
  const got = [];
  sub.on('message', (channel, text) => got.push([channel, text]));
  sub.on('pmessage', (pattern, channel, text) => got.push([pattern, channel, text]));
  sub.on('smessage', (channel, text) => got.push(['s', channel, text]));
  check(await sub.subscribe('news', 'other'), 2, 'subscribe');
  check(await sub.psubscribe('n?ws'), 3, 'psubscribe');
  check(await sub.ssubscribe('shard'), 1, 'ssubscribe');
  check(await redis.publish('news', 'one'), 2, 'publish');
  check(await redis.publish('other', 'two'), 1, 'publish');
  check(await redis.spublish('shard', 'three'), 1, 'spublish');
  check(await redis.publish('nobody', 'x'), 0, 'publish to nobody');
  await until(() => got.length === 4, 'four messages');
  check(got.map(String).sort(), ['n?ws,news,one', 'news,one', 'other,two', 's,shard,three'], 'messages');
  await checkFails(sub.get('x'), /subscriber mode/, 'no commands in subscriber mode');
  check(await redis.pubsub('NUMSUB', 'news', 'nobody'), ['news', 1, 'nobody', 0], 'NUMSUB');
  check(await redis.pubsub('NUMPAT'), 1, 'NUMPAT');

  // A client that reconnects subscribes again.
  const ready = new Promise((resolve) => sub.once('ready', resolve));
  sub.disconnect(true);
  await ready;
  await until(async () => {
    await redis.publish('other', 'back');
    return got.some(([, text]) => text === 'back');
  }, 'messages after the reconnection');
  const n = 1000 * rounds;
  await Promise.all(count(n).map((i) => redis.publish('other', `#${i}`)));
  const numbers = () => got.map(([, text]) => text).filter((text) => text.startsWith('#'));
  await until(() => numbers().length >= n, `${n} messages`);
  check(numbers(), count(n).map((i) => `#${i}`), 'their order');
  await sub.unsubscribe('news', 'other');
  await sub.punsubscribe();
  check(await sub.sunsubscribe(), 0, 'sunsubscribe');
  check(await sub.ping(), 'PONG', 'after all is unsubscribed');
}

async function blocking(redis) {
  await redis.del('b:list', 'b:zset', 'b:stream', '{b}from', '{b}to');
  const wait = async (call, wake, wanted) => {
    const own = redis.duplicate();
    const reply = call(own);
    // The commands of others are served while it waits.
    for (const i of count(20)) check(await redis.echo(`${i}`), `${i}`, 'echo');
    await wake();
    check(await reply, wanted, 'blocking');
    check(await own.ping(), 'PONG', 'the connection goes on');
    await own.quit();
  };
  await wait((own) => own.blpop('b:list', 0), () => redis.rpush('b:list', 'x'), ['b:list', 'x']);
  await wait((own) => own.brpop('b:list', 10), () => redis.rpush('b:list', 'y'), ['b:list', 'y']);
  await wait((own) => own.bzpopmin('b:zset', 0), () => redis.zadd('b:zset', 2, 'm'),
    ['b:zset', 'm', '2']);
  await wait((own) => own.blmove('{b}from', '{b}to', 'LEFT', 'RIGHT', 0),
    () => redis.rpush('{b}from', 'z'), 'z');
  await wait((own) => own.xread('BLOCK', 0, 'STREAMS', 'b:stream', '0'),
    () => redis.xadd('b:stream', '1-1', 'f', 'v'), [['b:stream', [['1-1', ['f', 'v']]]]]);
  check(await redis.blpop('b:list', 0.05), null, 'a timeout');
  await redis.xgroup('CREATE', 'b:stream', 'group', '$');
  await wait((own) => own.xreadgroup('GROUP', 'group', 'me', 'BLOCK', 5000, 'STREAMS', 'b:stream', '>'),
    () => redis.xadd('b:stream', '2-1', 'f', 'w'), [['b:stream', [['2-1', ['f', 'w']]]]]);
  check(await redis.xack('b:stream', 'group', '2-1'), 1, 'xack');
}

run(async () => {
  const redis = connect({ connectionName: 'ioredis', db: 0 });
  check(await redis.client('GETNAME'), 'ioredis', 'connectionName');
  const prefixed = connect({ keyPrefix: 'pre:', lazyConnect: true, stringNumbers: true });
  await prefixed.connect();
  await prefixed.mset('a', '1', 'b', '2');
  check(await prefixed.mget('a', 'b'), ['1', '2'], 'keyPrefix');
  check(await redis.mget('pre:a', 'pre:b'), ['1', '2'], 'keyPrefix');
  check(await prefixed.incr('a'), '2', 'stringNumbers');
  await redis.hset('own', { a: 1, b: 2 });
  check(await redis.hgetall('own'), { a: '1', b: '2' }, 'hgetall');
  check(await redis.getBuffer('pre:a'), Buffer.from('2'), 'getBuffer');
  await pipelines(redis);
  await transactions(redis);
  await scripts(redis);
  await streamsOfKeys(redis);
  await pubSub(redis);
  await blocking(redis);
  // Reconnects by itself, and sends what waited.
  redis.disconnect(true);
  check(await Promise.all(count(5).map((i) => redis.echo(`${i}`))), count(5).map(String), 'offline queue');
  await Promise.all(open.map((it) => it.quit()));
});
