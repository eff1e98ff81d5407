import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { WebSocket } from 'ws';
import { hasTerminals } from '../../../src/clients/agent/pseudo-terminal.ts';
import { openHalf } from '../../../src/clients/open-tunnel.ts';
import { runShell, type ShellTerminal } from '../../../src/clients/shell.ts';
import { type ControlServer, startAgent, startControl, type TestAgent } from '../../support/control-server.ts';
import { until } from '../../support/relay.ts';
import { missing } from '../../support/services.ts';

async function setUp(t: TestContext): Promise<{ control: ControlServer; agent: TestAgent } | undefined> {
  if (!(await hasTerminals())) {
    missing(t, 'node-pty is not installed');
    return undefined;
  }
  const control = await startControl(t);
  return { control, agent: await startAgent(t, control, { terminal: { shell: '/bin/sh', args: [] } }) };
}

/** A user half as a browser has it: raw texts and binary messages. */
async function browser(control: ControlServer, id: string) {
  const socket = new WebSocket(control.relay.url('user', id));
  const texts: string[] = [];
  const chunks: Buffer[] = [];
  socket.on('message', (data, isBinary) => (isBinary ? chunks.push(data as Buffer) : texts.push(String(data))));
  const closed = once(socket, 'close').then(([code]) => code as number);
  await once(socket, 'open');
  await until(() => texts.includes('c'), 'the agent has come');
  return { socket, texts, closed, output: () => Buffer.concat(chunks).toString() };
}

test('[T11] a terminal: options and protocol as texts, then binary both ways, termsize resizes', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const { control, agent } = set;
  const half = await browser(control, control.tunnel(agent.nodeid, 1, {}));
  half.socket.send('{"type":"options","cols":111,"rows":33}');
  half.socket.send('1');
  half.socket.send(Buffer.from('stty size; tty\n'));
  await until(() => /33 111\r\n\/dev\/pts\/\d+/.test(half.output()), 'the size and a terminal');
  half.socket.send('{"ctrlChannel":"102938","type":"termsize","cols":90,"rows":20}');
  half.socket.send(Buffer.from('stty size\n'));
  await until(() => /20 90\r\n/.test(half.output()), 'the new size');
  half.socket.send(Buffer.from('exit 3\n'));
  assert.equal(await half.closed, 1000);
  assert.deepEqual(half.texts, ['c'], 'who did not ask hears no control texts');
  await until(() => agent.agent.tunnels === 0, 'the tunnel is gone');
});

test('[T8] a terminal serves the protocol of its tunnel command alone, and no view-only user', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const { control, agent } = set;
  for (const [protocol, details, asked, expected] of [
    [1, {}, '8', /error: this session serves protocol 1, not 8/],
    [1, { usages: [2] }, '1', /error: protocol 1 is not among its usages/],
    [2, {}, '2', /error: this agent does not serve protocol 2/],
    [1, { desktopviewonly: true }, '1', /error: view only/],
    [1, { rights: 8 | 256 }, '1', /error: view only/],
    [1, { rights: 8 | 512 }, '1', /error: view only/],
  ] as const) {
    const half = await browser(control, control.tunnel(agent.nodeid, protocol, details));
    if (half.socket.readyState === WebSocket.OPEN) half.socket.send(asked);
    assert.equal(await half.closed, 1000);
    assert.match(half.texts.at(-1)!, expected);
    assert.equal(half.output(), '');
  }
  const admin = await browser(control, control.tunnel(agent.nodeid, 1, { rights: 0xffffffff }));
  admin.socket.send('1');
  admin.socket.send(Buffer.from('exit\n'));
  assert.equal(await admin.closed, 1000);
  assert.deepEqual(admin.texts, ['c']);
});

test('[T11] a user half that leaves hangs the process up', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const { control, agent } = set;
  const half = await browser(control, control.tunnel(agent.nodeid, 1, {}));
  half.socket.send('1');
  half.socket.send(Buffer.from('echo pid=$$; sleep 1000\n'));
  await until(() => /pid=\d+/.test(half.output()), 'the shell runs');
  const pid = Number(/pid=(\d+)/.exec(half.output())![1]);
  half.socket.terminate();
  await until(() => agent.agent.tunnels === 0, 'the tunnel is gone');
  assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
});

/** A local terminal of the test's own. */
function localTerminal() {
  const input = new PassThrough();
  const output = new PassThrough({ highWaterMark: 16 * 1024 });
  const told: string[] = [];
  let size = { cols: 80, rows: 24 };
  let resized: (() => void) | undefined;
  const terminal: ShellTerminal = {
    input,
    output,
    size: () => size,
    onResize: (listener) => {
      resized = listener;
      return () => told.push('resize off');
    },
    makeRaw: () => {
      told.push('raw');
      return () => told.push('restored');
    },
  };
  const resize = (cols: number, rows: number) => {
    size = { cols, rows };
    resized?.();
  };
  return { terminal, input, output, told, resize };
}

async function shell({ control, agent }: { control: ControlServer; agent: TestAgent }, signal?: AbortSignal) {
  const local = localTerminal();
  const quiet = signal ?? new AbortController().signal;
  const half = await openHalf(control.open, { device: agent.nodeid, transport: 'none', protocol: 1 }, {}, quiet);
  const status = runShell(half, { terminal: local.terminal, protocol: 1, signal: quiet }).catch((error) => error);
  return { ...local, status };
}

test('[T12] couplet shell: keys, output, resize, exit status, and the terminal as it was', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const { input, output, told, resize, status } = await shell(set);
  let seen = '';
  output.on('data', (data) => {
    seen += data;
  });
  input.write('stty size\n');
  await until(() => seen.includes('24 80'), 'the size');
  resize(100, 40);
  input.write('stty size\n');
  await until(() => seen.includes('40 100'), 'the new size');
  input.write('exit 7\n');
  assert.equal(await status, 7);
  assert.deepEqual(told, ['raw', 'resize off', 'restored']);
});

test('[T12] an input that ends is the end of the input there; a signal shows as 128 and its number', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const ended = await shell(set);
  ended.output.resume();
  ended.input.end('true\n');
  assert.equal(await ended.status, 0);
  const killed = await shell(set);
  killed.output.resume();
  killed.input.write('kill -9 $$\n');
  assert.equal(await killed.status, 128 + 9);
});

test('[T12] the terminal is restored when a signal ends the command or the agent goes', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const stop = new AbortController();
  const stopped = await shell(set, stop.signal);
  stop.abort(new Error('stopped'));
  assert.match(String(await stopped.status), /stopped/);
  assert.ok(stopped.told.includes('restored'));
  const left = await shell(set);
  left.output.resume();
  left.input.write('echo here\n');
  await set.agent.stop();
  await left.status;
  assert.ok(left.told.includes('restored'));
});

test('[T11] a slow reader stops the process, and gets its output to the last byte after it has ended', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const { input, output, status } = await shell(set);
  input.write('stty -echo -onlcr; PS1=; seq 1 2000000; echo THE END; exit 0\n');
  // Nobody reads: everything between here and the shell fills up and stands still.
  await until(() => output.writableNeedDrain, 'the output is full');
  await new Promise((resolve) => setTimeout(resolve, 600));
  let seen = '';
  let bytes = 0;
  output.on('data', (data: Buffer) => {
    bytes += data.length;
    seen = (seen + data).slice(-100);
  });
  assert.equal(await status, 0);
  await until(() => /1999999\n2000000\nTHE END\n$/.test(seen), 'the last output');
  assert.ok(bytes > 14_000_000, String(bytes));
});

test('[T11] much input for a terminal whose process does not read waits, and none is lost', async (t) => {
  const set = await setUp(t);
  if (set === undefined) return;
  const { input, output, status } = await shell(set);
  let seen = '';
  output.on('data', (data) => {
    seen += data;
  });
  input.write('stty raw -echo; echo rea""dy; sleep 0.5; head -c 1000000 | cksum; exit 0\n');
  await until(() => seen.includes('ready'), 'the terminal is raw');
  input.write(Buffer.alloc(1_000_000, 'x'));
  assert.equal(await status, 0);
  // The sum of a million times x, by cksum(1).
  const { execFileSync } = await import('node:child_process');
  const expected = execFileSync('cksum', { input: Buffer.alloc(1_000_000, 'x') })
    .toString()
    .trim();
  assert.ok(seen.includes(expected), seen.slice(-200));
});
