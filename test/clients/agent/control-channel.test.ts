import assert from 'node:assert/strict';
import { chmodSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { WebSocket } from 'ws';
import { AgentState } from '../../../src/clients/agent/state.ts';
import { Backoff } from '../../../src/clients/backoff.ts';
import { CoupletError } from '../../../src/core/errors.ts';
import { readServerMessage } from '../../../src/protocol/agent-messages.ts';
import { startAgent, startControl } from '../../support/control-server.ts';
import { temporaryFolder, until } from '../../support/relay.ts';

test('[T9] a device enrols once, and later comes back by its key', async (t) => {
  const control = await startControl(t);
  const folder = temporaryFolder(t);
  const first = await startAgent(t, control, { state: AgentState.open(folder) });
  assert.equal(statSync(join(folder, 'agent.key')).mode & 0o777, 0o600);
  assert.equal(statSync(join(folder, 'agent.json')).mode & 0o777, 0o600);
  assert.equal(control.joins.size, 0);
  await first.stop();
  await until(() => control.agents.size === 0, 'it is offline');
  const second = await startAgent(t, control, { state: AgentState.open(folder) });
  assert.equal(second.nodeid, first.nodeid);
  assert.equal(control.joins.size, 1, 'the new join code was not used');
  assert.deepEqual(
    control.heard.map((text) => JSON.parse(text).type),
    ['enrol', 'authenticate'],
  );
  const secrets = [readFileSync(join(folder, 'agent.key'), 'utf8').split('\n')[1]!];
  for (const secret of secrets) assert.ok(!control.heard.join().includes(secret));
});

test('[T9] the join code never crosses the wire, and is good once', async (t) => {
  const control = await startControl(t);
  const code = control.mintJoin();
  await startAgent(t, control, { join: code });
  assert.ok(!control.heard.join().includes(code));
  const state = AgentState.open(temporaryFolder(t));
  const second = await startAgent(t, control, { join: code, state }, false);
  const error = await second.ended;
  assert.ok(error instanceof CoupletError);
  assert.match(error.message, /join code is unknown, used or expired/);
  assert.equal(state.enrolment, undefined);
});

test('[T9] a refused agent ends with an error that says what to do', async (t) => {
  const control = await startControl(t);
  const agent = await startAgent(t, control);
  control.refuse = 'revoked';
  for (const socket of control.sockets) socket.terminate();
  const error = await agent.ended;
  assert.ok(error instanceof CoupletError);
  assert.equal(error.code, 'CPL_AGENT_REFUSED');
  assert.match(error.message, /revoked; enrol anew/);
});

test('[T9] replaced and revoked end the agent for good', async (t) => {
  const control = await startControl(t);
  for (const type of ['replaced', 'revoked'] as const) {
    const agent = await startAgent(t, control);
    control.send(agent.nodeid, { type });
    const error = await agent.ended;
    assert.ok(error instanceof CoupletError);
    assert.equal(error.code, `CPL_AGENT_${type.toUpperCase()}`);
  }
});

test('[T9] a recorded handshake is of no use a second time', async (t) => {
  const control = await startControl(t);
  const folder = temporaryFolder(t);
  const agent = await startAgent(t, control, { state: AgentState.open(folder) });
  await agent.stop();
  const again = await startAgent(t, control, { state: AgentState.open(folder) });
  await again.stop();
  for (const recorded of control.heard.slice(0, 2)) {
    const socket = new WebSocket(`${control.url}/agent`);
    const answers: string[] = [];
    await new Promise<void>((resolve) => {
      socket.on('message', (data) => {
        const message = readServerMessage(String(data));
        assert.ok(message.ok);
        answers.push(message.message.type);
        if (message.message.type === 'hello') socket.send(recorded);
      });
      socket.on('close', () => resolve());
    });
    assert.deepEqual(answers, ['hello', 'refused']);
  }
});

test('[T9] another server at the same address is not taken for the one the device knows', async (t) => {
  const control = await startControl(t);
  const folder = temporaryFolder(t);
  const agent = await startAgent(t, control, { state: AgentState.open(folder) });
  await agent.stop();
  const other = await startControl(t, {}, 'server-2');
  const lost = await startAgent(t, other, { state: AgentState.open(folder) }, false);
  const error = await lost.ended;
  assert.ok(error instanceof CoupletError);
  assert.equal(error.code, 'CPL_AGENT_SERVER');
  assert.deepEqual(other.heard, [], 'nothing was signed for it');
});

test('[T10] an agent comes back when its server was away', async (t) => {
  const control = await startControl(t);
  const agent = await startAgent(t, control);
  const { port } = control;
  await control.close();
  await until(() => agent.offline.some(({ code }) => code === 'CPL_CLIENT_CONNECT'), 'it tries again, in vain');
  await control.listen(port);
  await until(() => control.agents.has(agent.nodeid), 'it is online again');
});

test('[T10] a server that falls silent is left, and heartbeats keep a quiet channel', async (t) => {
  const control = await startControl(t);
  control.heartbeatMs = 50;
  const agent = await startAgent(t, control);
  await until(() => control.heard.filter((text) => text === '{"type":"heartbeat"}').length >= 8, 'heartbeats');
  assert.equal(agent.offline.length, 0);
  control.deaf = true;
  await until(() => agent.offline.some(({ code }) => code === 'CPL_AGENT_SILENT'), 'the agent hangs up');
});

test('[T10] waits are random, within 1 to 60 s, and double', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 1 }),
      (randoms) => {
        let at = 0;
        const backoff = new Backoff({ random: () => randoms[at++ % randoms.length]! });
        for (let attempt = 1; attempt < 30; attempt++) {
          const ms = backoff.next();
          assert.ok(ms >= 1000 && ms <= Math.min(60_000, 1000 * 2 ** attempt), `${ms} at ${attempt}`);
        }
        backoff.reset();
        assert.ok(backoff.next() <= 2000);
      },
    ),
  );
  const most = new Backoff({ random: () => 0.999_999 });
  const waits = Array.from({ length: 10 }, () => Math.round(most.next()));
  assert.deepEqual(waits.slice(0, 7), [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
});

test('[T9] a key that others can read is refused', (t) => {
  const folder = temporaryFolder(t);
  AgentState.open(folder);
  chmodSync(join(folder, 'agent.key'), 0o644);
  assert.throws(() => AgentState.open(folder), { code: 'CPL_AGENT_STATE', message: /mode 0600/ });
});
