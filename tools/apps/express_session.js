// An express application with its sessions in Redis (connect-redis): node express_session.js HOST PORT
'use strict';
const http = require('http');
const { load, host, port, rounds, check, checkThat, count, run } = require('./check.js');
const express = load('express');
const session = load('express-session');
const { RedisStore } = load('connect-redis');

function application(store) {
  const app = express();
  app.use(session({ store, secret: 'secret', resave: false, saveUninitialized: false, rolling: true,
    cookie: { maxAge: 60000 } }));
  app.get('/', (request, response) => response.json({ views: request.session.views || 0 }));
  app.get('/count', (request, response) => {
    request.session.views = (request.session.views || 0) + 1;
    request.session.text = 'é\r\n"';
    response.json({ views: request.session.views });
  });
  app.get('/renew', (request, response, next) => request.session.regenerate((error) => {
    if (error) next(error); else response.json({ views: request.session.views || 0 });
  }));
  app.get('/leave', (request, response, next) => request.session.destroy((error) => {
    if (error) next(error); else response.json({});
  }));
  return app;
}

// A browser: one cookie.
class Browser {
  constructor(ports) {
    this.ports = ports;
    this.turn = 0;
  }

  // Each request goes to the next server: only the store connects them.
  async get(path) {
    const headers = this.cookie ? { cookie: this.cookie } : {};
    const at = this.ports[this.turn++ % this.ports.length];
    const response = await fetch(`http://127.0.0.1:${at}${path}`, { headers });
    const cookie = response.headers.get('set-cookie');
    if (cookie) this.cookie = cookie.split(';')[0];
    check(response.status, 200, path);
    return response.json();
  }

  get id() {
    return decodeURIComponent(this.cookie.split('=')[1]).slice(2).split('.')[0];
  }
}

run(async () => {
  const client = load('redis').createClient({ socket: { host, port } });
  client.on('error', (error) => { throw error; });
  await client.connect();
  const store = new RedisStore({ client, prefix: 'sess:' });
  await store.clear();
  const servers = await Promise.all(count(2).map(() => new Promise((resolve) => {
    const server = http.createServer(application(store)).listen(0, '127.0.0.1', () => resolve(server));
  })));
  const ports = servers.map((server) => server.address().port);

  const browsers = count(20 * rounds).map(() => new Browser(ports));
  await Promise.all(browsers.map(async (browser, i) => {
    check(await browser.get('/'), { views: 0 }, 'no session yet');
    for (const n of count(i % 5 + 1)) check(await browser.get('/count'), { views: n + 1 }, 'count');
    check(await browser.get('/'), { views: i % 5 + 1 }, 'views');
  }));
  check(new Set(browsers.map((browser) => browser.id)).size, browsers.length, 'sessions');
  check(await store.length(), browsers.length, 'length, by SCAN over the whole cluster');
  check((await store.ids()).sort(), browsers.map((browser) => browser.id).sort(), 'ids');
  const all = await store.all();
  check(all.map((it) => it.views).sort(), browsers.map((_, i) => i % 5 + 1).sort(), 'all, by MGET');
  check(new Set(all.map((it) => it.text)).size, 1, 'text');
  const left = await client.ttl(`sess:${browsers[0].id}`);
  checkThat(left > 50 && left <= 60, `time to live ${left}`);

  const old = browsers[0].id;
  check(await browsers[0].get('/renew'), { views: 0 }, 'regenerate');
  await browsers[0].get('/count');
  checkThat(browsers[0].id !== old, 'a new session');
  check(await client.exists(`sess:${old}`), 0, 'the old one has gone');
  await browsers[1].get('/leave');
  check(await client.exists(`sess:${browsers[1].id}`), 0, 'destroy');
  check(await browsers[1].get('/'), { views: 0 }, 'after destroy');
  await store.clear();
  check(await store.length(), 0, 'clear, by DEL over slots');
  check(await browsers[2].get('/'), { views: 0 }, 'after clear');

  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  await client.close();
});
