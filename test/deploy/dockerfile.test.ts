import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join, normalize } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { run } from '../support/processes.ts';
import { temporaryFolder } from '../support/relay.ts';
import { root } from '../support/serve.ts';

/** An instruction of the Dockerfile, its continuation lines joined. */
interface Instruction {
  readonly name: string;
  readonly rest: string;
  readonly stage: number;
}

const instructions = readDockerfile();
const home = '/opt/couplet';

function readDockerfile(): Instruction[] {
  const text = readFileSync(join(root, 'deploy/Dockerfile'), 'utf8').replace(/^#.*$/gm, '').replace(/\\\n/g, ' ');
  let stage = -1;
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map((line) => {
      const name = line.slice(0, line.indexOf(' '));
      if (name === 'FROM') stage++;
      return { name, rest: line.slice(name.length + 1).trim(), stage };
    });
}

function all(name: string, stage?: number): string[] {
  return instructions.filter((i) => i.name === name && (stage ?? i.stage) === i.stage).map(({ rest }) => rest);
}

/** Sources and destination of each COPY of a stage, from the folder or from the first stage. */
function copies(stage: number, fromBuild: boolean): { sources: string[]; to: string }[] {
  return all('COPY', stage)
    .filter((rest) => rest.startsWith('--from=build ') === fromBuild)
    .map((rest) => rest.replace('--from=build ', '').split(/ +/))
    .map((words) => ({ sources: words.slice(0, -1), to: words.at(-1)! }));
}

/** Whether .dockerignore, which lets nothing through but what it names, lets a path through. */
function isSent(path: string): boolean {
  const lines = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n');
  const allowed = lines.filter((line) => line.startsWith('!')).map((line) => line.slice(1));
  return allowed.some((name) => path === name || path.startsWith(`${name}/`));
}

test('the Dockerfile copies only what is there, and .dockerignore sends nothing else', () => {
  const sources = [...copies(0, false), ...copies(1, false)].flatMap((copy) => copy.sources);
  assert.ok(sources.length >= 10);
  for (const source of sources) {
    assert.ok(existsSync(join(root, source)), `COPY ${source}`);
    assert.ok(isSent(source), `${source} is not in .dockerignore`);
  }
  const ignore = readFileSync(join(root, '.dockerignore'), 'utf8')
    .split('\n')
    .filter((line) => /^[^#]/.test(line));
  assert.equal(ignore[0], '*');
  assert.deepEqual(
    ignore
      .slice(1)
      .map((line) => line.slice(1))
      .sort(),
    [...sources].sort(),
  );
  for (const secret of ['data', 'data/login.key', '.env', '.git', 'bench', 'test', 'build', 'dist', 'node_modules'])
    assert.ok(!isSent(secret), secret);
  // Everything that the build reads is among it.
  const read = [
    'package.json',
    'package-lock.json',
    'binding.gyp',
    'tsconfig.json',
    'tsconfig.build.json',
    'native',
    'src',
  ];
  const first = copies(0, false).flatMap((copy) => copy.sources);
  for (const needed of read) assert.ok(first.includes(needed), needed);
  for (const source of JSON.stringify(readFileSync(join(root, 'binding.gyp'), 'utf8')).matchAll(/native\/[\w.]+/g))
    assert.ok(existsSync(join(root, source[0])), source[0]);
});

test('the image runs as a user of its own, holds no secret, ends by SIGTERM, keeps its data in a volume', () => {
  const last = instructions.filter(({ stage }) => stage === 1);
  assert.deepEqual(all('USER'), ['10001:10001']);
  const places = ['USER', 'VOLUME', 'ENTRYPOINT', 'CMD'].map((name) => last.findIndex((i) => i.name === name));
  assert.deepEqual(
    places,
    [...places].sort((a, b) => a - b),
    'USER goes before what runs',
  );
  assert.deepEqual(all('STOPSIGNAL'), ['SIGTERM']);
  assert.deepEqual(all('VOLUME'), ['/var/lib/couplet']);
  assert.deepEqual(all('ARG'), []);
  assert.deepEqual(all('ADD'), []);
  assert.doesNotMatch(all('ENV').join(' '), /key|secret|password|token|redis/i);
  const engines = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).engines.node as string;
  for (const image of all('FROM')) {
    const version = /^node:(\d+)-bookworm-slim\b/.exec(image)![1]!;
    assert.ok(engines.includes(`^${version}`), `Node.js ${version} of ${image} in ${engines}`);
  }
  // No compiler in what is run.
  assert.ok(all('RUN', 0).some((line) => /apt-get install .*g\+\+/.test(line)));
  assert.ok(all('RUN', 1).every((line) => !line.includes('apt-get')));
});

test("the image's health check tells a server that answers from one that does not", async (t) => {
  const command = JSON.parse(/CMD (\[.*\])$/.exec(all('HEALTHCHECK')[0]!)![1]!) as string[];
  assert.deepEqual(command.slice(0, 2), ['node', '-e']);
  let status = 200;
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url!);
    response.writeHead(status).end('ok');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const script = command[2]!.replace(':8080/', `:${(server.address() as AddressInfo).port}/`);
  assert.notEqual(script, command[2]);
  const check = async () => (await run(process.execPath, ['-e', script])).code;
  assert.equal(await check(), 0);
  status = 503;
  assert.equal(await check(), 1);
  server.close();
  server.closeAllConnections();
  assert.equal(await check(), 1);
  assert.deepEqual(asked, ['/healthz', '/healthz']);
  assert.ok(all('ENV').join(' ').includes('COUPLET_SERVER_LISTEN=0.0.0.0:8080'));
});

test('what the image holds is enough: production packages alone, the addon and dist/ run a relay', async (t) => {
  const folder = temporaryFolder(t);
  const image = join(folder, 'image');
  mkdirSync(image);
  for (const { sources, to } of [...copies(1, false), ...copies(1, true)]) {
    for (const source of sources.map((name) => name.replace(`${home}/`, ''))) {
      if (source === 'node_modules') continue;
      const target = to === './' ? join(image, source) : join(image, to);
      assert.ok(existsSync(join(root, source)), `${source} is built`);
      mkdirSync(dirname(target), { recursive: true });
      cpSync(join(root, source), target, { recursive: true });
    }
  }
  // `npm prune --omit=dev` leaves what the lock file does not mark as of the development.
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: true }>;
  };
  for (const [path, { dev }] of Object.entries(lock.packages)) {
    if (path === '' || dev === true || !existsSync(join(root, path)) || existsSync(join(image, path))) continue;
    mkdirSync(dirname(join(image, path)), { recursive: true });
    execFileSync('cp', ['-r', join(root, path), join(image, path)]);
  }
  assert.ok(!existsSync(join(image, 'node_modules/typescript')) && !existsSync(join(image, 'node_modules/tsx')));
  const [node, main] = JSON.parse(all('ENTRYPOINT')[0]!) as [string, string];
  assert.equal(node, 'node');
  const program = join(image, main.replace(`${home}/`, ''));
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  const ran = await run(process.execPath, [program, '--version'], 30_000, image);
  assert.equal(ran.stdout.trim(), version, ran.stderr);

  const set = Object.fromEntries(
    all('ENV', 1)
      .flatMap((line) => line.split(/ +/))
      .map((pair) => pair.split('=') as [string, string]),
  );
  assert.equal(set.COUPLET_SERVER_DATA_DIR, all('VOLUME')[0]);
  const own = {
    COUPLET_SERVER_LISTEN: '127.0.0.1:0',
    COUPLET_SERVER_METRICS_LISTEN: '127.0.0.1:0',
    COUPLET_SERVER_DATA_DIR: join(folder, 'data'),
    COUPLET_SERVER_DRAIN_MS: '0',
    COUPLET_RELAY_FORWARDER: 'native',
  };
  for (const name of Object.keys(set)) assert.ok(name === 'NODE_ENV' || name in own, name);
  const args = [program, ...(JSON.parse(all('CMD')[0]!) as string[])];
  const child = spawn(process.execPath, args, {
    cwd: normalize(image),
    env: { PATH: process.env.PATH, ...set, ...own },
  });
  t.after(() => child.kill('SIGKILL'));
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const exited = once(child, 'exit');
  let address = '';
  for await (const line of createInterface({ input: child.stdout })) {
    const said = JSON.parse(line) as { msg: string; address?: string };
    if (said.msg !== 'listening') continue;
    address = said.address!;
    break;
  }
  assert.notEqual(address, '', stderr);
  child.stdout.resume();
  assert.equal((await fetch(`http://${address}/healthz`)).status, 200);
  child.kill(all('STOPSIGNAL')[0] as NodeJS.Signals);
  assert.deepEqual(await exited, [0, null]);
});
