import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { run } from '../support/processes.ts';
import { temporaryFolder } from '../support/relay.ts';
import { mainFile, root } from '../support/serve.ts';
import { findProgram } from '../support/services.ts';

const folder = join(root, 'deploy');
const relayUnits = ['couplet.service', 'couplet@.service'];

/** The settings of a unit's section, each with all its values. */
function sectionOf(unit: string, section: string): Map<string, string[]> {
  const settings = new Map<string, string[]>();
  let current = '';
  for (const line of readFileSync(join(folder, unit), 'utf8').split('\n')) {
    if (line.startsWith('[')) current = line.slice(1, -1);
    const equals = line.indexOf('=');
    if (current !== section || line.startsWith('#') || equals < 0) continue;
    const name = line.slice(0, equals);
    settings.set(name, [...(settings.get(name) ?? []), line.slice(equals + 1)]);
  }
  return settings;
}

function verify(t: TestContext, analyze: string, unit: string, change = (text: string) => text): string {
  const units = temporaryFolder(t);
  const file = join(units, unit);
  // The program may be elsewhere on this machine; what is looked at is the unit.
  const text = readFileSync(join(folder, unit.replace(/@\d+\./, '@.')), 'utf8').replaceAll(
    '/usr/bin/node',
    process.execPath,
  );
  if (unit.includes('@')) writeFileSync(join(units, unit.replace(/@\d+\./, '@.')), change(text));
  writeFileSync(file, change(text));
  const { status, stdout, stderr } = spawnSync(analyze, ['verify', file], { encoding: 'utf8' });
  const said = (stdout + stderr).split('\n').filter((line) => line.includes(unit) || line.includes('couplet'));
  return status === 0 ? said.join('\n') : `${status}: ${stdout}${stderr}`;
}

test('the systemd units are what systemd-analyze verify takes', (t) => {
  const analyze = findProgram('systemd-analyze');
  // Part of systemd itself: a container does without, and the other tests of this file hold without it.
  if (analyze === undefined) return t.skip('systemd-analyze is not installed');
  for (const unit of ['couplet.service', 'couplet@8081.service', 'couplet-agent.service'])
    assert.equal(verify(t, analyze, unit), '', unit);
  const broken = verify(t, analyze, 'couplet.service', (text) => text.replace('KillMode=mixed', 'KillMode=gentle'));
  assert.match(broken, /kill mode/i);
});

test('[K8] a relay unit tells the parent alone to end, and waits for longer than the drain', () => {
  const schema = readFileSync(join(root, 'docs/reference/config.md'), 'utf8');
  const drainMs = Number(/### `server\.drainMs`[\s\S]*?- default: `(\d+)`/.exec(schema)![1]);
  for (const unit of relayUnits) {
    const service = sectionOf(unit, 'Service');
    assert.deepEqual(service.get('KillMode'), ['mixed']);
    // Closing is spread over three seconds after the drain.
    assert.ok(Number(service.get('TimeoutStopSec')![0]) * 1000 >= drainMs + 5000);
    assert.deepEqual(service.get('LimitNOFILE'), ['1048576']);
    assert.deepEqual(service.get('LimitCORE'), ['0']);
    assert.deepEqual(service.get('Restart'), ['on-failure']);
    assert.deepEqual(service.get('RestartPreventExitStatus'), ['2']);
    assert.deepEqual(service.get('OOMPolicy') ?? ['continue'], ['continue']);
    for (const name of ['NoNewPrivileges', 'ProtectHome', 'PrivateTmp', 'PrivateDevices', 'RestrictNamespaces'])
      assert.deepEqual(service.get(name), ['yes'], `${unit}: ${name}`);
    assert.deepEqual(service.get('ProtectSystem'), ['strict']);
    assert.deepEqual(sectionOf(unit, 'Install').get('WantedBy'), ['multi-user.target']);
  }
});

test('the command lines of the relay units are ones that couplet takes', async (t) => {
  const data = temporaryFolder(t);
  const config = join(data, 'couplet.yaml');
  mkdirSync(join(data, 'lib'));
  writeFileSync(config, 'server: { listen: 127.0.0.1:8080 }\n');
  for (const unit of relayUnits) {
    const service = sectionOf(unit, 'Service');
    for (const line of [`${service.get('ExecStart')![0]} --check-config`, service.get('ExecStartPre')![0]!]) {
      const [node, main, ...args] = line
        .replaceAll('/etc/couplet/couplet.yaml', config)
        .replaceAll('/var/lib/couplet', join(data, 'lib'))
        .replaceAll('%i', '8081')
        .split(' ');
      assert.deepEqual([node, main], ['/usr/bin/node', '/opt/couplet/dist/main.js']);
      const { code, stderr } = await run(process.execPath, [mainFile, ...args]);
      assert.equal(code, 0, `${unit}: ${args.join(' ')}: ${stderr}`);
      assert.equal(args.at(-1), '--check-config');
    }
    // What is checked before the start is what is started.
    assert.equal(`${service.get('ExecStart')![0]} --check-config`, service.get('ExecStartPre')![0]);
  }
});
