// Socket.IO on two server processes that know of each other by Redis' pub/sub alone.
// node socket_io.js HOST PORT [adapter|sharded] [ioredis|node-redis]
'use strict';
const { fork } = require('child_process');
const { load, host, port, rounds, check, until, sleep, count, run } = require('./check.js');

const kind = process.argv[4] || 'adapter';
const driver = process.argv[5] || 'ioredis';

// --- a server process: does what its parent says

async function newClient() {
  let client;
  if (driver === 'ioredis') {
    client = new (load('ioredis').Redis)({ host, port });
  } else {
    client = load('redis').createClient({ socket: { host, port } });
    await client.connect();
  }
  client.on('error', (error) => { throw error; });
  return client;
}

async function serve() {
  const { Server } = load('socket.io');
  const { createAdapter, createShardedAdapter } = load('@socket.io/redis-adapter');
  const pub = await newClient();
  const sub = pub.duplicate();
  if (driver === 'node-redis') await sub.connect();
  const create = kind === 'sharded' ? createShardedAdapter : createAdapter;
  const io = new Server({ adapter: create(pub, sub, { requestsTimeout: 3000 }) });
  io.on('connection', (socket) => {
    socket.on('join', async (rooms, done) => { await socket.join(rooms); done(); });
    socket.on('leave', async (room, done) => { await socket.leave(room); done(); });
    socket.on('say', (room, text) => socket.to(room).emit('said', text));
    socket.data.name = socket.handshake.auth.name;
  });
  io.on('question', (x, answer) => answer(x * 2));
  let told = [];
  io.on('told', (x) => told.push(x));

  const actions = {
    emit: ({ room, text }) => { (room ? io.to(room) : io).emit('said', text); },
    except: ({ room, text }) => { io.except(room).emit('said', text); },
    local: ({ text }) => { io.local.emit('said', text); },
    binary: ({ room }) => { io.to(room).emit('binary', Buffer.from([0, 255, 13, 10])); },
    ask: async ({ room }) => (await io.to(room).timeout(3000).emitWithAck('ask')).sort(),
    fetch: async ({ room }) =>
      (await (room ? io.in(room) : io).fetchSockets()).map((s) => s.data.name).sort(),
    rooms: async ({ room }) =>
      (await io.in(room).fetchSockets()).flatMap((s) => [...s.rooms]).filter((r) => r === room).length,
    join: ({ from, to }) => { io.in(from).socketsJoin(to); },
    leave: ({ from, to }) => { io.in(from).socketsLeave(to); },
    disconnect: ({ room }) => { io.in(room).disconnectSockets(true); },
    servers: () => io.of('/').adapter.serverCount(),
    tell: ({ x }) => { io.serverSideEmit('told', x); },
    told: () => { const all = told; told = []; return all; },
    question: ({ x }) => io.serverSideEmitWithAck('question', x),
    end: async () => {
      await io.close();
      if (driver === 'ioredis') {
        await Promise.all([pub.quit(), sub.quit()]);
      } else {
        await Promise.all([pub.close(), sub.close()]);
      }
    },
  };
  process.on('message', async ({ id, action, options }) => {
    try {
      process.send({ id, result: await actions[action](options || {}) });
    } catch (error) {
      process.send({ id, error: error.message });
    }
    if (action === 'end') process.disconnect();
  });
  process.on('disconnect', () => process.exit(0));
  io.listen(0);
  process.send({ port: io.httpServer.address().port });
}

// --- the parent: starts the servers, and is their clients

class ServerProcess {
  async start() {
    this.child = fork(__filename, [host, port, kind, driver, 'server'].map(String));
    this.calls = new Map();
    this.next = 0;
    await new Promise((resolve, reject) => {
      this.child.once('exit', (code) => reject(new Error(`a server ended with ${code}`)));
      this.child.on('message', ({ port: listens, id, result, error }) => {
        if (listens) {
          this.port = listens;
          resolve();
          return;
        }
        const { resolve: good, reject: bad } = this.calls.get(id);
        this.calls.delete(id);
        if (error) bad(new Error(error)); else good(result);
      });
    });
    return this;
  }

  do(action, options) {
    return new Promise((resolve, reject) => {
      const id = this.next++;
      this.calls.set(id, { resolve, reject });
      this.child.send({ id, action, options });
    });
  }
}

async function join(server, name, rooms) {
  const socket = load('socket.io-client').io(`http://127.0.0.1:${server.port}`,
    { transports: ['websocket'], reconnection: false, auth: { name } });
  const user = { name, socket, said: [] };
  socket.on('said', (text) => user.said.push(text));
  socket.on('binary', (bytes) => user.said.push([...bytes]));
  socket.on('ask', (answer) => answer(name));
  await new Promise((resolve, reject) => {
    socket.on('connect', resolve);
    socket.on('connect_error', reject);
  });
  if (rooms.length) await socket.emitWithAck('join', rooms);
  return user;
}

async function main() {
  const [one, two] = await Promise.all([new ServerProcess().start(), new ServerProcess().start()]);
  await until(async () => (await one.do('servers')) === 2 && (await two.do('servers')) === 2,
    'both servers');
  const users = await Promise.all([
    join(one, 'ann', ['red']), join(one, 'bob', ['red', 'blue']),
    join(two, 'cid', ['blue']), join(two, 'dan', ['red', 'green']),
  ]);
  const [ann, bob, cid, dan] = users;
  let tick = 0;

  // Says it, and then something to everybody over the same server: what had not come by then
  // doesn't come (one channel keeps its order; a room's own channel of the sharded adapter is waited
  // for by its known number).
  async function heard(server, action, options, who) {
    const text = `message ${++tick}`;
    await server.do(action, { ...options, text });
    await until(() => who.every((user) => user.said.includes(text)), `${action}: ${text}`);
    const fence = `fence ${tick}`;
    await server.do('emit', { text: fence });
    await until(() => users.every((user) => user.said.includes(fence)), fence);
    check(users.filter((user) => user.said.includes(text)).map((user) => user.name),
      who.map((user) => user.name), `${action} ${JSON.stringify(options)}`);
    check(who.every((user) => user.said.filter((it) => it === text).length === 1), true, 'once');
    for (const user of users) user.said.length = 0;
  }

  // A room's first member on a server subscribes its channel (sharded adapter), which takes a moment.
  for (const server of [one, two]) {
    for (const [room, who] of [['red', 3], ['blue', 2], ['green', 1]]) {
      await until(async () => {
        const text = `probe ${++tick}`;  // a late one is not this one
        await server.do('emit', { room, text });
        await sleep(20);
        return users.filter((user) => user.said.includes(text)).length === who;
      }, `room ${room}`);
      await sleep(20);
      for (const user of users) user.said.length = 0;
    }
  }

  for (const server of [one, two]) {
    await heard(server, 'emit', {}, users);
    await heard(server, 'emit', { room: 'red' }, [ann, bob, dan]);
    await heard(server, 'emit', { room: 'blue' }, [bob, cid]);
    await heard(server, 'emit', { room: 'green' }, [dan]);
    await heard(server, 'emit', { room: ['green', 'blue'] }, [bob, cid, dan]);
    await heard(server, 'except', { room: 'red' }, [cid]);
    check(await server.do('fetch'), ['ann', 'bob', 'cid', 'dan'], 'fetchSockets');
    check(await server.do('fetch', { room: 'blue' }), ['bob', 'cid'], 'fetchSockets of a room');
    check(await server.do('ask', { room: 'red' }), ['ann', 'bob', 'dan'], 'emitWithAck');
    check(await server.do('question', { x: 21 }), [42], 'serverSideEmitWithAck');
    await server.do('binary', { room: 'red' });
    await until(() => [ann, bob, dan].every((user) => user.said.length === 1), 'binary');
    check(ann.said, [[0, 255, 13, 10]], 'binary');
    check(dan.said, [[0, 255, 13, 10]], 'binary');
    for (const user of users) user.said.length = 0;
  }
  await heard(one, 'local', {}, [ann, bob]);

  // Many messages in a row, to all: each arrives once and in order.
  const n = 500 * rounds;
  for (const i of count(n)) one.do('emit', { text: i });
  await until(() => users.every((user) => user.said.length >= n), `${n} messages`);
  for (const user of users) check(user.said.splice(0), count(n), `order at ${user.name}`);

  bob.socket.emit('say', 'red', 'from bob');
  await until(() => ann.said.length && dan.said.length, 'from bob');
  check([ann.said, bob.said, dan.said], [['from bob'], [], ['from bob']], 'not to the sender');
  for (const user of users) user.said.length = 0;

  await one.do('tell', { x: 1 });
  await two.do('tell', { x: 2 });
  const told = [[], []];
  await until(async () => {
    told[0].push(...await one.do('told'));
    told[1].push(...await two.do('told'));
    return told[0].length && told[1].length;
  }, 'serverSideEmit');
  check(told, [[2], [1]], 'serverSideEmit goes to the others');

  // Rooms changed from the other server.
  await one.do('join', { from: 'blue', to: 'new' });
  await until(async () => (await two.do('fetch', { room: 'new' })).length === 2, 'socketsJoin');
  check(await one.do('fetch', { room: 'new' }), ['bob', 'cid'], 'socketsJoin');
  await two.do('leave', { from: 'new', to: 'blue' });
  await until(async () => (await one.do('fetch', { room: 'blue' })).length === 0, 'socketsLeave');
  await two.do('disconnect', { room: 'new' });
  await until(() => !bob.socket.connected && !cid.socket.connected, 'disconnectSockets');
  await until(async () => (await one.do('fetch')).length === 2, 'two are left');
  check(await two.do('fetch'), ['ann', 'dan'], 'two are left');

  for (const user of users) user.socket.close();
  await two.do('end');
  await until(async () => (await one.do('servers')) === 1, 'one server');
  await one.do('end');
}

if (process.argv[6] === 'server') {
  serve().catch((error) => {
    console.error(error);
    process.exit(1);
  });
} else {
  run(main);
}
