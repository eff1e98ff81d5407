import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Client, connect, Refused } from '../support/client.ts';
import { Ground } from '../support/processes.ts';
import { RawAgent } from '../support/raw-agent.ts';
import { until } from '../support/relay.ts';

const hostile = [
  '../../../etc/passwd',
  'line\nfeed\r\n{"code":"CPL-1001I"}',
  '\u001b[2J\u001b]0;title\u0007',
  'right\u202eleft',
  'x'.repeat(300),
  'zero\u0000byte',
  '\u2028\u200b\ufeff',
  '"},{"a":"',
  '$(reboot)',
];

/** What breaks a line, moves text about or hides it when somebody looks at it. */
const harmful = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;

/** Files of a folder and below. */
function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
}

function checkLines(what: string, text: string): void {
  assert.doesNotMatch(text, harmful, what);
  for (const line of text.split('\n').slice(0, -1)) assert.equal(typeof JSON.parse(line), 'object', what);
}

test('fault 34: hostile names in users, devices, targets, facts, ids and messages stay harmless', async (t) => {
  const ground = await Ground.start(t, { recording: { mode: 'strict', index: false } });
  const { serve, directory, alice } = ground;
  let log = '';
  serve.child.stdout!.on('data', (data) => {
    log += data;
  });
  const { agent, device } = await ground.addAgent('box');
  const bob = await directory.users.create({ name: 'bob' });
  const base = `ws://127.0.0.1:${serve.port}`;
  const before = filesIn(serve.folder).filter((name) => !name.includes('recordings') && !name.includes('events'));
  const seal = (content: Record<string, unknown>) => encodeURIComponent(serve.sealer.seal(content));
  const auth = (user = alice) => seal({ userid: user.id, domainid: '' });
  /** A user half that may be refused; whatever is answered is for people. */
  const attempt = async (url: string): Promise<Client | undefined> => {
    try {
      return await connect(t, url);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      assert.ok(error.status >= 400 && error.status < 500, `${url}: ${error.status}`);
      return undefined;
    }
  };

  let agents = 0;
  for (const [index, text] of hostile.entries()) {
    const encoded = encodeURIComponent(text);
    // Names in the directory: refused, or harmless. Which of the two is the directory's affair.
    await directory.users.create({ name: text }).catch((error) => assert.match(error.code, /^CPL_DIRECTORY_VALUE$/));
    const named = await directory.devices
      .create({ deviceGroupId: ground.group.id, name: text })
      .catch((error) => assert.match(error.code, /^CPL_DIRECTORY_VALUE$/));
    const { join: code } =
      named ?? (await directory.devices.create({ deviceGroupId: ground.group.id, name: `plain${index}` }));

    const raw = await RawAgent.open(t, base);
    raw.facts = { hostname: text, platform: text.slice(0, 60), version: text.slice(0, 60), capabilities: ['tcp'] };
    raw.enrol(code.code);
    const answer = await raw.client.next().catch(() => undefined);
    if (answer !== undefined && JSON.parse(String(answer.data)).type === 'accepted') {
      agents++;
      raw.say({ type: 'tunnel-refused', id: text.slice(0, 256), reason: 'target', detail: text });
    }

    for (const target of [`tcpport=22&tcpaddr=${encoded}`, `udpport=53&udpaddr=${encoded}`, `p=1&id=${encoded}`]) {
      const half = await attempt(
        `${base}/meshrelay.ashx?nodeid=${encodeURIComponent(device.id)}&${target}&auth=${auth()}`,
      );
      if (half === undefined) continue;
      if (target.startsWith('p=1')) {
        half.ws.close();
        continue;
      }
      const { reason } = await half.closed;
      assert.match(reason, /^[\x20-\x7e]*$/, target);
    }
    const inCookie = seal({ userid: alice.id, domainid: '', nodeid: device.id, tcpport: 22, tcpaddr: text });
    const routed = await attempt(`${base}/meshrelay.ashx?auth=${inCookie}`);
    if (routed !== undefined) assert.match((await routed.closed).reason, /^[\x20-\x7e]*$/);
    const strange = seal({ userid: alice.id, domainid: '', nodeid: text, tcpport: 22 });
    const unknown = await attempt(`${base}/meshrelay.ashx?auth=${strange}`);
    if (unknown !== undefined) assert.equal((await unknown.closed).code, 4403);
  }
  assert.ok(agents >= 5, `only ${agents} agents with hostile facts were let in`);

  // Messages: each text is one line of the recording, and comes back as it was.
  const id = encodeURIComponent('meshmessenger/user//alice/user//bob');
  const [first, second] = [
    await connect(t, `${base}/meshrelay.ashx?id=${id}&auth=${auth()}`),
    await connect(t, `${base}/meshrelay.ashx?id=${id}&auth=${auth(bob)}`),
  ];
  assert.deepEqual([await first.nextText(), await second.nextText()], ['cr', 'cr']);
  for (const text of hostile) {
    first.send(text);
    assert.equal(await second.nextText(), text);
  }
  first.ws.close(1000);
  await second.closed;
  const recordings = join(serve.dataDir, 'recordings');
  const chat = () => readdirSync(recordings).find((name) => name.endsWith('.jsonl'));
  await until(() => chat() !== undefined, 'the recording');
  const recorded = () => readFileSync(join(recordings, chat()!), 'utf8');
  await until(() => recorded().split('\n').length > hostile.length, 'every line is written');
  checkLines('the messenger recording', recorded());
  assert.deepEqual(
    recorded()
      .split('\n')
      .slice(0, hostile.length)
      .map((line) => JSON.parse(line).text),
    hostile,
  );

  // The API: what agents say of themselves, as data.
  const scopes = ['devices:read', 'events:read'];
  const { secret } = await directory.apiTokens.create(alice.id, { name: 'test', scopes });
  const devices = await fetch(`${ground.url}/api/v1/devices?limit=100`, {
    headers: { authorization: `Bearer ${secret}`, connection: 'close' },
  });
  const answered = await devices.text();
  assert.equal(devices.status, 200, answered);
  assert.doesNotMatch(answered, harmful);
  assert.ok(JSON.parse(answered).devices.length >= hostile.length);

  // Ends the agent's tunnels and the server: everything is written then.
  await agent.line(({ msg }) => msg === 'online');
  await agent.end();
  for (const said of agent.said) assert.equal(typeof said.msg, 'string');
  serve.signal('SIGTERM');
  await serve.exited;
  assert.deepEqual(serve.strayLines, []);
  checkLines('the log', log);
  for (const name of readdirSync(serve.eventsDir).filter((file) => file.endsWith('.jsonl'))) {
    checkLines(name, readFileSync(join(serve.eventsDir, name), 'utf8'));
  }
  for (const name of readdirSync(recordings)) assert.match(name, /^relaysession-[A-Za-z0-9_.@$-]{1,240}$/);
  const after = filesIn(serve.folder).filter((name) => !name.includes('recordings') && !name.includes('events'));
  assert.deepEqual(
    after.filter((name) => !before.includes(name) && !/directory\.sqlite-(wal|shm)$/.test(name)),
    [],
    'no file in a strange place',
  );
  const verified = await serve.verify();
  assert.equal(verified.code, 0, verified.stdout + verified.stderr);
});
