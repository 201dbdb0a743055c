// Redlock: locks that exclude, also with several resources under one hash tag.
// node redlock.js HOST PORT
'use strict';
const { load, host, port, rounds, check, checkThat, checkFails, sleep, count, run } =
  require('./check.js');
const { default: Redlock, ExecutionError } = load('redlock');

run(async () => {
  const clients = count(4).map(() => new (load('ioredis').Redis)({ host, port }));
  // One application, of several processes: each has its own client of the one Redis.
  const locks = clients.map((client) => new Redlock([client],
    { retryCount: 1000, retryDelay: 5, retryJitter: 5 }));
  for (const lock of locks) {
    lock.on('error', (error) => {
      if (error.constructor.name !== 'ResourceLockedError') throw error;
    });
  }
  const [client] = clients;
  await client.del('counter');

  const n = 10 * rounds;
  let inside = 0;
  await Promise.all(locks.map(async (lock) => {
    for (let i = 0; i < n; i++) {
      await lock.using(['the lock'], 5000, async (signal) => {
        checkThat(++inside === 1, 'alone in it');
        const value = Number(await client.get('counter'));
        await client.set('counter', value + 1);
        checkThat(!signal.aborted, 'kept');
        inside--;
      });
    }
  }));
  check(Number(await client.get('counter')), 4 * n, 'no increment is lost');
  check(await client.exists('the lock'), 0, 'released');

  const impatient = new Redlock([client], { retryCount: 0 });
  impatient.on('error', () => {});
  const held = await locks[0].acquire(['{r}1', '{r}2'], 5000);
  check(await client.exists('{r}1', '{r}2'), 2, 'two resources, one lock');
  await checkFails(impatient.acquire(['{r}2'], 1000), ExecutionError, 'held');
  const longer = await held.extend(9000);
  checkThat(await client.pttl('{r}1') > 5000, 'extend');
  await longer.release();
  check(await client.exists('{r}1', '{r}2'), 0, 'release');
  await checkFails(longer.release(), ExecutionError, 'released twice');

  const short = await impatient.acquire(['short'], 100);
  await sleep(150);
  const next = await impatient.acquire(['short'], 1000);
  await checkFails(short.release(), ExecutionError, 'not its own any more');
  await next.release();

  // The scripts' texts are lost, as after a failover: they are sent again.
  await client.script('FLUSH');
  await (await impatient.acquire(['short'], 1000)).release();
  await Promise.all(clients.map((it) => it.quit()));
});
