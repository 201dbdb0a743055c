// What ioredis offers on a cluster: node ioredis_cluster.js HOST PORT, of one of its nodes
'use strict';
const { load, host, port, rounds, check, checkThat, checkFails, until, count, run } =
  require('./check.js');
const { Cluster } = load('ioredis');

const open = [];
async function connect(options = {}) {
  const cluster = new Cluster([{ host, port }], options);
  cluster.on('error', (error) => { throw error; });
  cluster.on('node error', (error, address) => { throw new Error(`${address}: ${error}`); });
  open.push(cluster);
  await new Promise((resolve) => cluster.once('ready', resolve));
  return cluster;
}

const keys = count(60).map((i) => `ioredis:c${i}`);  // of as many slots

async function commands(cluster) {
  const n = 500 * rounds;
  check(await Promise.all(count(n).flatMap((i) =>
    [cluster.set(keys[i % 60], i), cluster.get(keys[i % 60])])),
    count(n).flatMap((i) => ['OK', `${i}`]), 'commands in order');
  await cluster.mset('{c}a', 1, '{c}b', 2);
  check(await cluster.mget('{c}a', '{c}b', '{c}none'), ['1', '2', null], 'mget');
  await checkFails(cluster.rpoplpush(keys[0], keys[1]), /CROSSSLOT/, 'CROSSSLOT');
  check(await cluster.pipeline().set('{c}p', 1).incr('{c}p').get('{c}p').exec(),
    [[null, 'OK'], [null, 2], [null, '2']], 'pipeline');
  check(await cluster.multi().set('{c}t', 1).incr('{c}t').exec(), [[null, 'OK'], [null, 2]], 'multi');
  const auto = await connect({ enableAutoPipelining: true });
  await Promise.all(keys.map((key, i) => auto.set(key, i)));
  check(await Promise.all(keys.map((key) => auto.get(key))), keys.map((_, i) => `${i}`),
    'auto pipelining');
  // Of replicas; a node without any is asked itself.
  const scaled = await connect({ scaleReads: 'all' });
  await until(async () => (await Promise.all(keys.map((key) => scaled.get(key)))).every((v, i) =>
    v === `${i}`), 'scaleReads');
  check(await cluster.del('{c}a', '{c}b', '{c}p', '{c}t'), 4, 'del');
}

async function scripts(cluster) {
  cluster.defineCommand('addAll', { numberOfKeys: 2, lua: `
    local sum = 0
    for _, key in ipairs(KEYS) do sum = sum + redis.call('INCRBY', key, ARGV[1]) end
    return sum` });
  for (const i of count(20)) {
    await cluster.del(`{s${i}}1`, `{s${i}}2`);
    check(await cluster.addAll(`{s${i}}1`, `{s${i}}2`, 5), 10, 'defineCommand');
  }
  await Promise.all(cluster.nodes('master').map((node) => node.script('FLUSH')));
  check(await cluster.addAll('{s0}1', '{s0}2', 5), 20, 'after SCRIPT FLUSH');
}

async function allNodes(cluster) {
  const masters = cluster.nodes('master');
  checkThat(masters.length > 0, 'nodes');
  await Promise.all(masters.map((node) => node.flushall()));
  const wanted = count(300 * rounds).map((i) => `scan:${i}`);
  await Promise.all(wanted.map((key) => cluster.set(key, 1)));
  const found = [];
  for (const node of masters) {
    for await (const some of node.scanStream({ match: 'scan:*', count: 50 })) found.push(...some);
  }
  check(found.sort(), [...wanted].sort(), 'scanStream of all nodes');
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  check(sum(await Promise.all(masters.map((node) => node.dbsize()))), wanted.length, 'dbsize');
  check((await Promise.all(masters.map((node) => node.keys('scan:*')))).flat().sort(),
    [...wanted].sort(), 'keys');
  check(sum(await Promise.all(wanted.map((key) => cluster.del(key)))), wanted.length, 'del');
}

async function pubSub(cluster) {
  const got = [];
  const sub = await connect({ shardedSubscribers: true });
  sub.on('message', (channel, text) => got.push(`${channel}:${text}`));
  sub.on('smessage', (channel, text) => got.push(`${channel}:${text}`));
  check(await sub.subscribe('news', 'other'), 2, 'subscribe');
  const channels = count(10).map((i) => `shard${i}`);  // of as many slots
  for (const channel of channels) checkThat(await sub.ssubscribe(channel) > 0, 'ssubscribe');
  await cluster.publish('news', 'one');
  for (const channel of channels) check(await cluster.spublish(channel, 'two'), 1, 'spublish');
  await until(() => got.length === 11, 'messages');
  check(got.sort(), ['news:one', ...channels.map((channel) => `${channel}:two`)].sort(), 'messages');
  const n = 500 * rounds;
  got.length = 0;
  await Promise.all(count(n).map((i) => cluster.spublish('shard0', i)));
  await until(() => got.length === n, `${n} messages`);
  check(got, count(n).map((i) => `shard0:${i}`), 'their order');
  for (const channel of channels) await sub.sunsubscribe(channel);
}

async function blocking(cluster) {
  for (const i of count(5)) {
    await cluster.del(`b${i}`);
    const own = await connect();
    const reply = own.blpop(`b${i}`, 10);
    await cluster.rpush(`b${i}`, 'x');
    check(await reply, [`b${i}`, 'x'], 'blpop');
  }
}

run(async () => {
  const cluster = await connect();
  await commands(cluster);
  await scripts(cluster);
  await allNodes(cluster);
  await pubSub(cluster);
  await blocking(cluster);
  // Each connection breaks; what was asked for meanwhile is sent when it is back.
  cluster.nodes().forEach((node) => node.disconnect(true));
  check(await Promise.all(keys.map((key, i) => cluster.set(key, i))), keys.map(() => 'OK'),
    'after reconnecting');
  await Promise.all(open.map((it) => it.quit()));
});
