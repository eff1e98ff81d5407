#!/usr/bin/env node
// `npm start`: a relay on loopback with a data folder of its own, and commands that move data through it.
// PORT chooses the port; every COUPLET_… variable of `couplet serve` goes before the defaults below.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

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
  COUPLET_DIRECTORY: 'none',
  ...process.env,
};
const recording = process.env.COUPLET_RECORDING_MODE || 'best-effort';

// A process group of its own: Ctrl-C in the terminal reaches this process alone, which asks the server to end once.
const server = spawn(process.execPath, [main, 'serve', '--recording', recording], {
  cwd: root,
  env: settings,
  detached: true,
  stdio: ['ignore', 'pipe', 'inherit'],
});

let asked = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (!asked) console.log('\nending the demo; once more to skip the wait for running sessions');
    asked = true;
    server.kill('SIGTERM');
  });
}
server.on('error', (error) => {
  console.error(`cannot start the relay: ${error.message}`);
  process.exitCode = 1;
});
server.on('close', (code) => {
  // It may have ended for a reason of its own: then its status is ours.
  process.exitCode = code ?? 1;
});

for await (const line of createInterface({ input: server.stdout })) {
  console.log(line);
  const entry = parse(line);
  if (entry?.msg === 'listening') guide(entry);
}

function parse(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined; // not a log line; it was printed as it is
  }
}

function guide({ address, metricsAddress = settings.COUPLET_SERVER_METRICS_LISTEN }) {
  // Without the link, npx would first install the folder as a package of its own and build it again.
  const couplet = existsSync(join(root, 'node_modules/.bin/couplet')) ? 'npx couplet' : `node ${main}`;
  // The server makes this file where no other key is configured.
  const key = quote(settings.COUPLET_AUTH_LOGIN_KEY_FILE ?? join(settings.COUPLET_SERVER_DATA_DIR, 'login.key'));
  const pipe = (side, id) =>
    `${couplet} pipe --url ws://${address}/relay --id ${id} --login-key-file ${key} --as ${side}:user//demo`;
  console.log(`
The relay runs.   ws://${address}/relay    http://${metricsAddress}/metrics    data: ${settings.COUPLET_SERVER_DATA_DIR}

Each example is two commands in two terminals, in the folder ${root}.
The first half waits 30 seconds for its mate.

1. A real file from one end to the other. The sums of the last two commands are equal:

  ${pipe('device', 'demo1')} < /dev/null | sha256sum

  tar c node_modules | ${pipe('user', 'demo1')} > /dev/null

  tar c node_modules | sha256sum

2. Both directions at once:

  tar c node_modules | ${pipe('user', 'demo2')} | sha256sum

  tar c src | ${pipe('device', 'demo2')} | sha256sum

3. A TCP service behind the device half, here this relay's own metrics over HTTP:

  bash -c '${pipe('device', 'demo3')} <>/dev/tcp/${metricsAddress.replace(/:(\d+)$/, '/$1')} >&0'

  printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' | ${pipe('user', 'demo3')}

4. ssh to this machine, where an ssh server runs:

  bash -c '${pipe('device', 'demo4')} <>/dev/tcp/127.0.0.1/22 >&0'

  ssh -o ProxyCommand='${pipe('user', 'demo4')}' localhost

Ctrl-C ends the relay.
`);
}

/** A word for the shell. */
function quote(word) {
  return /^[\w./-]+$/.test(word) ? word : `"${word.replaceAll(/["\\$`]/g, '\\$&')}"`;
}
