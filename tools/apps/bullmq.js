// BullMQ: queues, workers, delays, priorities, schedulers, flows, rate limits, events, stalled jobs.
// node bullmq.js HOST PORT [ioredis|node-redis]
//
// The prefix is the one that BullMQ's documentation asks for on a cluster ("Redis Cluster"): a hash
// tag, so that all keys of the queues lie in one slot. Nothing else differs from a single Redis.
'use strict';
const { load, host, port, rounds, check, checkThat, checkFails, until, sleep, count, run } =
  require('./check.js');
const { Queue, Worker, QueueEvents, FlowProducer, UnrecoverableError } = load('bullmq');

const prefix = '{bull}';
const driver = process.argv[4] || 'ioredis';
const opened = [];
require('events').defaultMaxListeners = 0;  // waitUntilFinished listens once for each job
const clients = [];

// Each queue, worker and so on makes its connections by itself, or duplicates the client it is given.
async function connection() {
  if (driver === 'ioredis') return { host, port };
  const client = load('redis').createClient({ socket: { host, port } });
  client.on('error', (error) => { throw error; });
  await client.connect();
  clients.push(client);
  return client;
}

async function open(Class, name, ...rest) {
  const options = { connection: await connection(), prefix, ...(rest.pop() || {}) };
  const it = new Class(...(name ? [name] : []), ...rest, options);
  it.on('error', (error) => {
    console.error(`${Class.name} ${name}:`, error);
    process.exit(1);
  });
  opened.push(it);
  if (it.waitUntilReady) await it.waitUntilReady();
  return it;
}

const newQueue = async (name, options = {}) => {
  const queue = await open(Queue, name, options);
  await queue.obliterate({ force: true });
  return queue;
};

async function jobsAndEvents() {
  const queue = await newQueue('plain');
  const events = await open(QueueEvents, 'plain', {});
  const seen = { waiting: 0, active: 0, progress: 0, completed: 0, failed: 0 };
  for (const name of Object.keys(seen)) events.on(name, () => { seen[name]++; });
  const worker = await open(Worker, 'plain', async (job) => {
    if (job.name === 'bad') throw new Error('no luck');
    await job.updateProgress(50);
    await job.log('half way');
    return { sum: job.data.a + job.data.b };
  }, { concurrency: 20 });
  const n = 200 * rounds;
  const single = await Promise.all(count(n).map((i) => queue.add('add', { a: i, b: 1 })));
  const bulk = await queue.addBulk(count(n).map((i) => ({ name: 'add', data: { a: i, b: 2 } })));
  const results = await Promise.all([...single, ...bulk].map((job) => job.waitUntilFinished(events)));
  check(results, [...count(n).map((i) => ({ sum: i + 1 })), ...count(n).map((i) => ({ sum: i + 2 }))],
    'return values');
  checkThat(new Set([...single, ...bulk].map((job) => job.id)).size === 2 * n, 'unique ids');
  const bad = await queue.add('bad', {});
  await checkFails(bad.waitUntilFinished(events), /no luck/, 'a failure');
  check((await queue.getJob(bad.id)).failedReason, 'no luck', 'failedReason');
  check(await bad.getState(), 'failed', 'state');
  check((await queue.getJobLogs(single[0].id)).logs, ['half way'], 'log');
  check((await queue.getJob(single[0].id)).progress, 50, 'progress');
  check(await queue.getJobCounts('completed', 'failed', 'waiting', 'active'),
    { completed: 2 * n, failed: 1, waiting: 0, active: 0 }, 'counts');
  check((await queue.getCompleted(0, 9)).length, 10, 'getCompleted');
  await until(() => seen.completed === 2 * n && seen.failed === 1, 'all events');
  check(seen, { waiting: 2 * n + 1, active: 2 * n + 1, progress: 2 * n, completed: 2 * n, failed: 1 },
    'events');
  // The failed one is tried again by hand, and fails again.
  await bad.retry();
  await checkFails(bad.waitUntilFinished(events), /no luck/, 'retry');
  check((await queue.clean(0, 10000, 'completed')).length, 2 * n, 'clean');
  check(await queue.getCompletedCount(), 0, 'cleaned');
  check((await queue.getWorkers()).length, 1, 'getWorkers, by CLIENT LIST');
  await worker.close();
}

async function retriesDelaysAndPriorities() {
  const queue = await newQueue('timed');
  const events = await open(QueueEvents, 'timed', {});
  const order = [];
  let attempts = 0;
  const worker = await open(Worker, 'timed', async (job) => {
    order.push(job.data.n);
    if (job.name === 'flaky' && ++attempts < 3) throw new Error('try again');
    if (job.name === 'hopeless') throw new UnrecoverableError('never');
    return Date.now() - job.timestamp;
  }, { autorun: false });

  // Before the worker runs: the order is decided by priorities, then by arrival; LIFO comes first.
  const first = [];
  for (const [n, options] of [[1, { priority: 3 }], [2, { priority: 1 }], [3, {}], [4, { lifo: true }],
    [5, { priority: 3 }]]) {
    first.push(await queue.add('ordered', { n }, options));
  }
  check(await queue.getJobCounts('wait', 'prioritized'), { wait: 2, prioritized: 3 }, 'before');
  worker.run().catch((error) => { throw error; });
  await Promise.all(first.map((job) => job.waitUntilFinished(events)));
  check(order, [4, 3, 2, 1, 5], 'order of priorities');

  const flaky = await queue.add('flaky', { n: 6 },
    { attempts: 3, backoff: { type: 'fixed', delay: 50 } });
  await flaky.waitUntilFinished(events);
  check(attempts, 3, 'attempts');
  check((await queue.getJob(flaky.id)).attemptsMade, 3, 'attemptsMade');
  const hopeless = await queue.add('hopeless', { n: 7 }, { attempts: 5 });
  await checkFails(hopeless.waitUntilFinished(events), /never/, 'UnrecoverableError');

  const delays = [300, 200, 100];
  const delayed = await Promise.all(delays.map((delay) => queue.add('later', { n: delay }, { delay })));
  const took = await Promise.all(delayed.map((job) => job.waitUntilFinished(events)));
  took.forEach((ms, i) => checkThat(ms >= delays[i], `delay ${delays[i]} took ${ms}`));
  check(order.slice(-3), [100, 200, 300], 'order of delays');
  const far = await queue.add('far', { n: 8 }, { delay: 3600000 });
  check(await far.getState(), 'delayed', 'delayed');
  await far.promote();
  await far.waitUntilFinished(events);

  await queue.pause();
  const waiting = await queue.add('paused', { n: 9 });
  check(await queue.isPaused(), true, 'isPaused');
  await sleep(50);
  checkThat(!order.includes(9), 'nothing runs while paused');
  await queue.resume();
  await waiting.waitUntilFinished(events);

  await queue.pause();
  const same = await queue.add('once', { n: 10 }, { jobId: 'mine' });
  check((await queue.add('once', { n: 11 }, { jobId: 'mine' })).id, same.id, 'same jobId');
  const one = await queue.add('d', { n: 12 }, { deduplication: { id: 'dup' } });
  const two = await queue.add('d', { n: 13 }, { deduplication: { id: 'dup' } });
  check(two.id, one.id, 'deduplication');
  check(await queue.getJobCountByTypes('wait', 'paused'), 2, 'two jobs, not four');
  await same.remove();
  await queue.drain();
  check(await queue.getJobCountByTypes('wait', 'paused'), 0, 'drained');
  await worker.close();
}

async function schedulers() {
  const queue = await newQueue('scheduled');
  const runs = [];
  const worker = await open(Worker, 'scheduled', async (job) => { runs.push(job.name); }, {});
  await queue.upsertJobScheduler('often', { every: 100, limit: 4 }, { name: 'tick', data: {} });
  await queue.upsertJobScheduler('yearly', { pattern: '0 0 1 1 *' }, { name: 'year', data: {} });
  const all = await queue.getJobSchedulers(0, -1, true);
  check(all.map((scheduler) => scheduler.key).sort(), ['often', 'yearly'], 'getJobSchedulers');
  await until(() => runs.length === 4, 'four ticks');
  check(await queue.removeJobScheduler('yearly'), true, 'removeJobScheduler');
  await sleep(150);
  check(runs, ['tick', 'tick', 'tick', 'tick'], 'limit');
  await worker.close();
}

async function flows() {
  const parents = await newQueue('parents');
  const children = await newQueue('children');
  const events = await open(QueueEvents, 'parents', {});
  const flow = await open(FlowProducer, null, {});
  const leaf = await open(Worker, 'children', async (job) => {
    if (job.data.fail) throw new Error('a child failed');
    if (job.name === 'middle') {
      return Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0);
    }
    return job.data.value;
  }, { concurrency: 5 });
  const root = await open(Worker, 'parents', async (job) =>
    Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0), {});
  const tree = (n) => ({
    name: 'root', queueName: 'parents', data: {},
    children: [
      { name: 'leaf', queueName: 'children', data: { value: n } },
      { name: 'middle', queueName: 'children', data: {},
        children: count(3).map((i) => ({ name: 'leaf', queueName: 'children', data: { value: i } })) },
    ],
  });
  const added = await flow.addBulk(count(10 * rounds).map(tree));
  const sums = await Promise.all(added.map((node) => node.job.waitUntilFinished(events)));
  check(sums, count(10 * rounds).map((n) => n + 3), 'sums of flows');
  const got = await flow.getFlow({ id: added[0].job.id, queueName: 'parents' });
  check(got.children.length, 2, 'getFlow');
  check((await added[0].job.getDependenciesCount()).processed, 2, 'getDependenciesCount');
  const failing = await flow.add({
    name: 'root', queueName: 'parents', data: {},
    children: [{ name: 'leaf', queueName: 'children', data: { fail: true },
      opts: { failParentOnFailure: true } }],
  });
  await checkFails(failing.job.waitUntilFinished(events), /child/, 'failParentOnFailure');
  await leaf.close();
  await root.close();
  await children.obliterate({ force: true });
}

async function rateLimits() {
  const queue = await newQueue('limited');
  const starts = [];
  const worker = await open(Worker, 'limited', async () => { starts.push(Date.now()); },
    { limiter: { max: 3, duration: 300 }, concurrency: 10 });
  await queue.addBulk(count(9).map((i) => ({ name: 'x', data: { i } })));
  await until(() => starts.length === 9, 'nine jobs');
  checkThat(starts[8] - starts[0] >= 500, `nine jobs, three in 300 ms, took ${starts[8] - starts[0]}`);
  await worker.close();
  await queue.setGlobalConcurrency(1);
  check(await queue.getGlobalConcurrency(), 1, 'getGlobalConcurrency');
  let running = 0;
  let most = 0;
  let done = 0;
  const many = await open(Worker, 'limited', async () => {
    most = Math.max(most, ++running);
    await sleep(5);
    running--;
    done++;
  }, { concurrency: 10 });
  await queue.addBulk(count(10).map((i) => ({ name: 'y', data: { i } })));
  await until(() => done === 10, 'ten jobs');
  check(most, 1, 'global concurrency');
  await many.close();
}

// A worker that goes away with a job is noticed, and another one runs the job.
async function stalledJobs() {
  const queue = await newQueue('stalled');
  const events = await open(QueueEvents, 'stalled', {});
  const stalled = [];
  events.on('stalled', ({ jobId }) => stalled.push(jobId));
  let started;
  const start = new Promise((resolve) => { started = resolve; });
  const gone = await open(Worker, 'stalled', async () => { started(); await new Promise(() => {}); },
    { lockDuration: 300, stalledInterval: 300 });
  const job = await queue.add('once', {});
  await start;
  await gone.close(true);
  const other = await open(Worker, 'stalled', async () => 'by another',
    { lockDuration: 300, stalledInterval: 100 });
  check(await job.waitUntilFinished(events), 'by another', 'stalled job');
  await until(() => stalled.includes(job.id), 'the event of the stalled job');
  await other.close();
}

run(async () => {
  await jobsAndEvents();
  await retriesDelaysAndPriorities();
  await schedulers();
  await flows();
  await rateLimits();
  await stalledJobs();
  await Promise.all(opened.map((it) => it.close()));
  for (const client of clients) if (client.isOpen) await client.close();
});
