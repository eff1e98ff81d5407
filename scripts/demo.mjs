#!/usr/bin/env node
// `npm start`: a relay on loopback with a directory, a sample device (an agent on this machine), and commands to try.
// PORT chooses the port; every COUPLET_… variable of `couplet serve` goes before the defaults below.
import { spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { deviceName, setUp } from './demo-setup.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const main = join('dist', 'main.js');
if (!existsSync(join(root, main))) {
  console.error(`${main} is missing: run "npm ci" (or "npm run build") first`);
  process.exit(1);
}

const settings = {
  COUPLET_SERVER_LISTEN: `127.0.0.1:${process.env.PORT ?? 8080}`,
  COUPLET_SERVER_METRICS_LISTEN: '127.0.0.1:9464',
  COUPLET_SERVER_DATA_DIR: 'data',
  COUPLET_SERVER_DRAIN_MS: '2000',
  COUPLET_DIRECTORY: 'sqlite',
  ...process.env,
};
const recording = process.env.COUPLET_RECORDING_MODE || 'best-effort';
const data = resolve(root, settings.COUPLET_SERVER_DATA_DIR);

const children = new Set();
let isEnding = false;
process.exitCode = 0;

/** Runs `couplet ARGS` until the demo ends; it never ends alone: then the demo does, with its status. */
function run(args, onLine) {
  // A process group of its own: Ctrl-C in the terminal reaches this process alone, which asks each child to end once.
  const child = spawn(process.execPath, [main, ...args], {
    cwd: root,
    env: settings,
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  child.on('error', (error) => console.error(`cannot start ${args[0]}: ${error.message}`));
  child.on('close', (code, signal) => {
    children.delete(child);
    // Asked twice, a child may die of the second time while it is ending already.
    const isClean = code === 0 || (isEnding && signal === 'SIGTERM');
    if (!isClean) process.exitCode ||= code ?? 1;
    if (isEnding) return;
    console.error(`${args[0]} ended with ${signal ?? code}; so does the demo`);
    end();
  });
  createInterface({ input: child.stdout }).on('line', (line) => {
    console.log(line);
    const entry = parse(line);
    if (entry !== undefined) onLine(entry);
  });
}

function parse(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined; // not a log line; it was printed as it is
  }
}

function end() {
  isEnding = true;
  for (const child of children) child.kill('SIGTERM');
}

/** One Ctrl-C comes twice: from the terminal, and passed on by npm. */
const sameSignalMs = 500;
let askedMs = Number.NEGATIVE_INFINITY;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (performance.now() - askedMs < sameSignalMs) return;
    if (!isEnding) console.log('\nending the demo; once more to skip the wait for running sessions');
    askedMs = performance.now();
    end();
  });
}

run(['serve', '--recording', recording], (entry) => {
  if (entry.msg === 'listening') startDevice(entry).catch(failed);
});

async function startDevice({ address, metricsAddress }) {
  const url = `http://${address}`;
  const { agentState, joinFile } = await setUp({ url, data, couplet: runOnce });
  if (isEnding) return;
  const joining = joinFile === undefined ? [] : ['--join-file', joinFile];
  run(['agent', '--url', url.replace('http', 'ws'), '--state', agentState, ...joining], (entry) => {
    if (entry.msg !== 'online') return;
    if (joinFile !== undefined) rmSync(joinFile, { force: true });
    guide(url, metricsAddress);
  });
}

function failed(error) {
  if (isEnding) return;
  console.error(`the demo cannot be set up: ${error.message}`);
  process.exitCode = 1;
  end();
}

/** Runs `couplet ARGS` to its end, with this input; its exit code and what it said. */
function runOnce(args, input) {
  return new Promise((done, broken) => {
    const child = spawn(process.execPath, [main, ...args], {
      cwd: root,
      env: settings,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        said += text;
      });
    }
    child.on('error', broken);
    child.on('close', (code) => done({ code, said: said.trim() }));
    // One that ended before it read anything says why on its own.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

let isGuided = false;

function guide(url, metricsAddress) {
  if (isGuided) return; // the agent came back
  isGuided = true;
  // Not by npx, which would first install the folder as a package of its own.
  const couplet = `node ${main}`;
  const place = (name) => quote(data.startsWith(`${root}/`) ? relative(root, join(data, name)) : join(data, name));
  const isUsual = data === join(root, 'data');
  const recordings = settings.COUPLET_RECORDING_DIR ? quote(settings.COUPLET_RECORDING_DIR) : place('recordings');
  const as = `--url ${url} --token-file ${place('demo.token')}`;
  const metricsPort = Number(/\d+$/.exec(metricsAddress)[0]);
  const port = metricsPort < 65_535 ? metricsPort + 1 : metricsPort - 1;
  const proxy = `${couplet} forward ${as} --stdio ${deviceName} 127.0.0.1:%p`
    .replaceAll('%', '%%')
    .replace('%%p', '%p');
  console.log(`
The relay runs at ${url}, and the device "${deviceName}" is online: an agent that may dial this machine's loopback.
Commands for another terminal, in the folder ${root}:

1. Log in to the API (user and password are in ${place('demo.json')}), and ask it with a token:

  curl -s -H 'content-type: application/json' --data @${place('demo.json')} ${url}/api/v1/login

  curl -s -H "authorization: Bearer $(cat ${place('demo.token')})" ${url}/api/v1/devices

2. A local port that leads to a port of the device, here the relay's own metrics:

  ${couplet} forward ${as} ${deviceName} ${port}:127.0.0.1:${metricsPort}

  curl -s http://127.0.0.1:${port}/metrics

3. A terminal on the device:

  ${couplet} shell ${as} ${deviceName}

4. ssh to the device, where an ssh server runs (-p for another port than 22):

  ssh -o ${quote(`ProxyCommand=${proxy}`)} localhost

5. A guest link, and who is connected:

  ${couplet} share create ${as} ${deviceName} --protocols terminal --expires 2h

  ${couplet} session list ${as}

Metrics: http://${metricsAddress}/metrics
Events: ${place('events')}   ${couplet} audit tail${isUsual ? '' : ` --data ${quote(data)}`}
Recordings: ${recordings}   ${couplet} recording list ${recordings}
All else: ${quote(data)}

Ctrl-C ends relay and agent.
`);
}

/** A word for the shell. */
function quote(word) {
  return /^[\w./@:-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
