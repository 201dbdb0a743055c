// rate-limiter-flexible on ioredis and node-redis: node rate_limiter.js HOST PORT
'use strict';
const { load, host, port, rounds, check, checkThat, sleep, count, run } = require('./check.js');
const { RateLimiterRedis, RateLimiterQueue, BurstyRateLimiter, RLWrapperBlackAndWhite } =
  load('rate-limiter-flexible');

const allowed = (results) => results.filter((result) => result.status === 'fulfilled').length;

async function limit(storeClient, useRedisPackage, name) {
  const options = { storeClient, useRedisPackage, keyPrefix: `limit:${name}` };
  const limiter = new RateLimiterRedis({ ...options, points: 10, duration: 5, blockDuration: 30 });
  const users = count(20 * rounds).map((i) => `user ${i}`);
  await Promise.all(users.map((user) => limiter.delete(user)));

  // Of 15 requests at the same time exactly 10 pass, for each of many users.
  await Promise.all(users.map(async (user) => {
    const results = await Promise.allSettled(count(15).map(() => limiter.consume(user)));
    const refused = results.filter((result) => result.status === 'rejected').map((it) => it.reason);
    for (const reason of refused) if (reason instanceof Error) throw reason;
    check(allowed(results), 10, `${name}: ${user}`);
    checkThat(refused[0].msBeforeNext > 0 && refused[0].msBeforeNext <= 30000, 'msBeforeNext');
  }));
  const state = await limiter.get(users[0]);
  check(state.remainingPoints, 0, 'nothing is left');
  checkThat(state.consumedPoints > 10, 'consumedPoints');
  check(await limiter.get('nobody'), null, 'get of nobody');
  check(await limiter.delete(users[0]), true, 'delete');
  check(await limiter.delete(users[0]), false, 'delete again');
  await limiter.penalty(users[0], 3);
  check((await limiter.reward(users[0], 1)).consumedPoints, 2, 'penalty and reward');
  await limiter.set(users[0], 8, 5);
  check((await limiter.consume(users[0])).remainingPoints, 1, 'set');
  await limiter.block(users[0], 10);
  check(allowed(await Promise.allSettled([limiter.consume(users[0])])), 0, 'block');

  const short = new RateLimiterRedis({ ...options, keyPrefix: `short:${name}`, points: 2, duration: 1 });
  await short.delete('x');
  check(allowed(await Promise.allSettled(count(4).map(() => short.consume('x')))), 2, 'first second');
  const wait = (await short.get('x')).msBeforeNext;
  await sleep(wait + 50);
  check(allowed(await Promise.allSettled(count(4).map(() => short.consume('x')))), 2, 'next second');

  const queue = new RateLimiterQueue(new RateLimiterRedis(
    { ...options, keyPrefix: `queue:${name}`, points: 2, duration: 1 }));
  const begin = Date.now();
  await Promise.all(count(4).map(() => queue.removeTokens(1, `${begin}`)));
  checkThat(Date.now() - begin > 700, 'a queue waits');

  const bursty = new BurstyRateLimiter(
    new RateLimiterRedis({ ...options, keyPrefix: `a:${name}`, points: 2, duration: 30 }),
    new RateLimiterRedis({ ...options, keyPrefix: `b:${name}`, points: 3, duration: 30 }));
  check(allowed(await Promise.allSettled(count(8).map(() => bursty.consume(`${begin}`)))), 5, 'burst');
  const lists = new RLWrapperBlackAndWhite({ limiter, whiteList: ['white'], blackList: ['black'] });
  check(allowed(await Promise.allSettled(count(12).map(() => lists.consume('white')))), 12, 'white');
  check(allowed(await Promise.allSettled([lists.consume('black')])), 0, 'black');
}

run(async () => {
  const ioredis = new (load('ioredis').Redis)({ host, port, enableOfflineQueue: false });
  const nodeRedis = load('redis').createClient({ socket: { host, port } });
  for (const client of [ioredis, nodeRedis]) client.on('error', (error) => { throw error; });
  await nodeRedis.connect();
  if (ioredis.status !== 'ready') await new Promise((resolve) => ioredis.once('ready', resolve));
  await Promise.all([limit(ioredis, false, 'ioredis'), limit(nodeRedis, true, 'node-redis')]);
  await ioredis.quit();
  await nodeRedis.close();
});
