// What node-redis offers on a cluster: node node_redis_cluster.js HOST PORT [4|5] [2|3]
// HOST and PORT are of one of its nodes; the third is the major version of the package, the fourth
// the protocol.
'use strict';
const { load, host, port, rounds, check, checkThat, checkFails, until, count, run } =
  require('./check.js');

const version = Number(process.argv[4] || 5);
const RESP = Number(process.argv[5] || 2);
const { createCluster, defineScript } = load(version === 4 ? 'redis4' : 'redis');

const addAll = defineScript({
  SCRIPT: `local sum = 0
    for _, key in ipairs(KEYS) do sum = sum + redis.call('INCRBY', key, ARGV[1]) end
    return sum`,
  NUMBER_OF_KEYS: 2,
  FIRST_KEY_INDEX: 0,
  ...(version === 4 ? { transformArguments: (one, two, n) => [one, two, `${n}`] } : {
    parseCommand: (parser, one, two, n) => { parser.pushKey(one); parser.pushKey(two); parser.push(`${n}`); },
  }),
  transformReply: (reply) => reply,
});

const open = [];
async function connect(options = {}) {
  const cluster = createCluster({
    rootNodes: [{ socket: { host, port } }], ...(version === 4 ? {} : { RESP, unstableResp3: true }),
    scripts: { addAll }, ...options,
  });
  cluster.on('error', (error) => { throw error; });
  await cluster.connect();
  open.push(cluster);
  return cluster;
}

const keys = count(60).map((i) => `node-redis:c${i}`);  // of as many slots
const plain = (value) => JSON.parse(JSON.stringify(value));

async function commands(cluster) {
  const n = 500 * rounds;
  check(await Promise.all(count(n).flatMap((i) =>
    [cluster.set(keys[i % 60], `${i}`), cluster.get(keys[i % 60])])),
    count(n).flatMap((i) => ['OK', `${i}`]), 'commands in order');
  await cluster.mSet({ '{c}a': '1', '{c}b': '2' });
  check(await cluster.mGet(['{c}a', '{c}b', '{c}none']), ['1', '2', null], 'mGet');
  await checkFails(cluster.lMove(keys[0], keys[1], 'LEFT', 'LEFT'), /CROSSSLOT/, 'CROSSSLOT');
  check(await cluster.multi().set('{c}t', '1').incr('{c}t').get('{c}t').exec(), ['OK', 2, '2'], 'multi');
  await cluster.hSet('h', { a: '1' });
  check(plain(await cluster.hGetAll('h')), { a: '1' }, 'hGetAll');
  const scaled = await connect({ useReplicas: true });
  await until(async () => (await scaled.get('{c}b')) === '2', 'useReplicas');
  check(await cluster.del(['{c}a', '{c}b', '{c}t']), 3, 'del');
  for (const i of count(20)) {
    await cluster.del([`{s${i}}1`, `{s${i}}2`]);
    check(await cluster.addAll(`{s${i}}1`, `{s${i}}2`, 5), 10, 'defineScript');
  }
}

async function allNodes(cluster) {
  checkThat(cluster.masters.length > 0, 'masters');
  const nodes = await Promise.all(cluster.masters.map((node) => cluster.nodeClient(node)));
  await Promise.all(nodes.map((node) => node.flushAll()));
  const wanted = count(300 * rounds).map((i) => `scan:${i}`);
  await Promise.all(wanted.map((key) => cluster.set(key, '1')));
  const found = [];
  for (const node of nodes) {
    for await (const some of node.scanIterator({ MATCH: 'scan:*', COUNT: 50 })) {
      found.push(...[some].flat());
    }
  }
  check(found.sort(), [...wanted].sort(), 'scanIterator of all nodes');
  const sizes = await Promise.all(nodes.map((node) => node.dbSize()));
  check(sizes.reduce((a, b) => a + b, 0), wanted.length, 'dbSize');
  await Promise.all(wanted.map((key) => cluster.del(key)));
}

async function pubSub(cluster) {
  const got = [];
  const note = (text, channel) => got.push(`${channel}:${text}`);
  await cluster.subscribe('news', note);
  const channels = count(10).map((i) => `shard${i}`);  // of as many slots
  for (const channel of channels) await cluster.sSubscribe(channel, note);
  await cluster.publish('news', 'one');
  for (const channel of channels) check(await cluster.sPublish(channel, 'two'), 1, 'sPublish');
  await until(() => got.length === 11, 'messages');
  check(got.sort(), ['news:one', ...channels.map((channel) => `${channel}:two`)].sort(), 'messages');
  const n = 500 * rounds;
  got.length = 0;
  await Promise.all(count(n).map((i) => cluster.sPublish('shard0', `${i}`)));
  await until(() => got.length === n, `${n} messages`);
  check(got, count(n).map((i) => `shard0:${i}`), 'their order');
  for (const channel of channels) await cluster.sUnsubscribe(channel, note);
  await cluster.unsubscribe('news', note);
}

async function blocking(cluster) {
  for (const i of count(5)) {
    await cluster.del(`b${i}`);
    const own = await connect();
    const reply = own.blPop(`b${i}`, 10);
    await cluster.rPush(`b${i}`, 'x');
    check(plain(await reply), { key: `b${i}`, element: 'x' }, 'blPop');
  }
}

run(async () => {
  const cluster = await connect();
  await commands(cluster);
  await allNodes(cluster);
  await pubSub(cluster);
  await blocking(cluster);
  await Promise.all(open.map((it) => (version === 4 ? it.quit() : it.close())));
});
