import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Ground } from '../support/processes.ts';
import { until } from '../support/relay.ts';
import { mainFile, root } from '../support/serve.ts';
import { missing } from '../support/services.ts';

interface Terminal {
  onData(listener: (text: string) => void): void;
  onExit(listener: (end: { exitCode: number; signal?: number }) => void): void;
  write(text: string): void;
  resize(cols: number, rows: number): void;
  kill(signal?: string): void;
}

interface NodePty {
  spawn(file: string, args: readonly string[], options: object): Terminal;
}

async function nodePty(t: TestContext): Promise<NodePty | undefined> {
  const name: string = 'node-pty';
  const module = await import(name).catch(() => undefined);
  if (module === undefined) missing(t, 'node-pty is not installed');
  return module?.default ?? module;
}

test('[T12] couplet shell in a terminal: prompt, keys, resize, ^C, exit status', { timeout: 60_000 }, async (t) => {
  const pty = await nodePty(t);
  if (pty === undefined) return;
  const ground = await Ground.start(t, { recording: { mode: 'strict', index: false } });
  await ground.addAgent('box', '--shell', '/bin/sh');
  const args = [mainFile, 'shell', ...ground.login(), 'box'];
  const options = { cols: 101, rows: 31, cwd: root, name: 'xterm' };
  // From a shell, as people do: what it finds of its terminal afterwards must be what it was.
  const script = '"$@"; echo "status $?"; stty -a';
  const terminal = pty.spawn('/bin/sh', ['-c', script, 'sh', process.execPath, ...args], options);
  let screen = '';
  terminal.onData((text) => {
    screen += text;
  });
  let end: { exitCode: number } | undefined;
  terminal.onExit((ended) => {
    end = ended;
  });
  t.after(() => {
    if (end === undefined) terminal.kill('SIGKILL');
  });
  const shows = (what: RegExp) =>
    until(() => what.test(screen), String(what)).catch((error) => {
      throw new Error(`${error.message} in ${JSON.stringify(screen)}`);
    });
  await shows(/[$#] $/);
  // What the remote terminal made of a line feed comes through as it is, and so does a bare one.
  const bare = 'stty -opost; printf "bare\\nfeed"; stty opost; echo';
  terminal.write(`stty size; echo $((6 * 7)); ${bare}\r`);
  await shows(/\r\n31 101\r\n42\r\nbare\nfeed\r\n/);
  terminal.resize(77, 22);
  // The window's size and the keys take different ways to the command: it is asked until it knows.
  await until(async () => {
    screen = '';
    terminal.write('stty size\r');
    await shows(/\d+ \d+\r\n.*[$#] $/);
    return screen.includes('22 77');
  }, 'the new size');
  screen = '';
  terminal.write('sleep 1000\r');
  await shows(/sleep 1000\r\n/);
  terminal.write('\u0003');
  await shows(/\^C[\s\S]*[$#] $/);
  terminal.write('tty && exit 7\r');
  await until(() => end !== undefined, 'the command ends');
  assert.match(screen, /\nstatus 7\r\n/);
  for (const mode of ['icanon', 'echo', 'isig', 'opost', 'icrnl']) assert.match(screen, new RegExp(`[\\s;]${mode}\\s`));
  assert.match(screen, /\/dev\/pts\/\d+/);
  const [session] = await ground.sessions(1);
  assert.deepEqual([session!.start.protocol, session!.start.msgid, session!.end.outcome], [1, 14, 'normal']);
  assert.ok((await ground.recorded(session!)).down > 100, 'what was shown is on record');
});

test('[T12] couplet shell --user asks for the password in the terminal, which does not show it', {
  timeout: 60_000,
}, async (t) => {
  const pty = await nodePty(t);
  if (pty === undefined) return;
  const ground = await Ground.start(t);
  await ground.addAgent('box', '--shell', '/bin/sh');
  const args = [mainFile, 'shell', '--url', ground.url, '--user', 'alice', 'box'];
  const talk = async (keys: string) => {
    const terminal = pty.spawn(process.execPath, args, { cols: 80, rows: 24, cwd: root, name: 'xterm' });
    let screen = '';
    let end: { exitCode: number } | undefined;
    terminal.onExit((ended) => {
      end = ended;
    });
    t.after(() => {
      if (end === undefined) terminal.kill('SIGKILL');
    });
    terminal.onData((text) => {
      screen += text;
    });
    await until(() => screen.endsWith("alice's password: "), 'it asks');
    terminal.write(keys);
    await until(() => end !== undefined, 'the command ends', 20_000);
    return { screen, code: end!.exitCode };
  };
  // Mistyped and taken back; what is typed ahead reaches the shell.
  const well = await talk('wrong\u0015correct horsé\u007fe\recho $((6 * 7)); exit 7\r');
  assert.equal(well.code, 7, well.screen);
  assert.match(well.screen, /^alice's password: \r\n[\s\S]*\b42\r\n/);
  assert.doesNotMatch(well.screen, /hors/);
  const given = await talk('correct\u0003');
  assert.deepEqual([given.code, given.screen], [1, "alice's password: \r\ncouplet: no password was given\r\n"]);
});
