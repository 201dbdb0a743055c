// What the scripts in Node.js share: node SCRIPT.js HOST PORT. Each ends with "all N checks passed".
'use strict';
const assert = require('assert');
const path = require('path');
const { createRequire } = require('module');

// The packages lie where npm put them, not beside this file.
exports.load = createRequire(path.join(process.env.RCPROXY_NODE_DIR, 'package.json'));

exports.host = process.argv[2];
exports.port = Number(process.argv[3]);
// How many times the usual amount of work.
exports.rounds = Number(process.env.RCPROXY_ROUNDS || 1);

let passed = 0;

exports.check = function check(actual, expected, what) {
  assert.deepStrictEqual(actual, expected, what);
  passed++;
};

exports.checkThat = function checkThat(condition, what) {
  assert.ok(condition, what);
  passed++;
};

exports.checkFails = async function checkFails(promise, pattern, what) {
  await assert.rejects(promise, pattern, what);
  passed++;
};

exports.sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Polls until `condition` gives something true, and returns that.
exports.until = async function until(condition, what, ms = 20000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`gave up after ${ms} ms waiting for ${what}`);
    await exports.sleep(10);
  }
};

exports.count = (n) => Array.from({ length: n }, (_, i) => i);

exports.finish = function finish() {
  console.log(`all ${passed} checks passed`);
  process.exit(0);
};

exports.run = function run(main) {
  main().then(exports.finish, (error) => {
    console.error(error);
    process.exit(1);
  });
};
