import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { type Client, connect, Refused } from '../support/client.ts';
import { recordingsIn } from '../support/recordings.ts';
import { until } from '../support/relay.ts';
import { type Site, startSite } from '../support/site.ts';

/** Half of a messenger session, as a user or as a device. */
function join(t: TestContext, site: Site, id: string, cookie: Record<string, unknown>): Promise<Client> {
  const side = 'userid' in cookie ? 'auth' : 'rauth';
  const sealed = encodeURIComponent(site.relay.sealer.seal(cookie));
  // Whoever alice talks to comes to the other server, where there is one.
  const url = cookie.userid === site.alice.id ? site.url : site.deviceUrl;
  return connect(t, `${url}/meshrelay.ashx?id=${encodeURIComponent(id)}&${side}=${sealed}`);
}

/** As {@link join}, for one who was let in again a moment ago, which the other server hears of a little later. */
async function joinAgain(t: TestContext, site: Site, id: string, cookie: Record<string, unknown>): Promise<Client> {
  let client: Client | undefined;
  await until(async () => {
    client = await join(t, site, id, cookie).catch((error) => {
      if (site.relay.other === undefined || !(error instanceof Refused)) throw error;
      return undefined;
    });
    return client !== undefined;
  }, 'the other server knows');
  return client!;
}

function lines(site: Site): [string, string][] {
  const [file, ...more] = recordingsIn(site.relay.folder);
  assert.deepEqual(more, []);
  assert.match(file!, /\.jsonl$/);
  return readFileSync(file!, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
    .map(({ from, text }) => [from, text]);
}

async function recordedEnd(site: Site): Promise<void> {
  await until(() => site.relay.events().some(({ code }) => code === 'CPL-1203I'), 'the recording is complete');
}

const recorded = { settings: { recording: { mode: 'strict' } } };

test('[R13][T14] two users of the directory exchange text, recorded as lines of JSON', async (t) => {
  const site = await startSite(t, recorded);
  const bob = await site.directory.users.create({ name: 'bob' });
  const id = `meshmessenger/${site.alice.id}/${bob.id}`;
  const first = await join(t, site, id, { userid: site.alice.id, domainid: '' });
  const second = await join(t, site, id, { userid: bob.id, domainid: '' });
  assert.deepEqual([await first.nextText(), await second.nextText()], ['cr', 'cr']);
  first.send('hello, Bob — grüß dich 💥');
  assert.equal(await second.nextText(), 'hello, Bob — grüß dich 💥');
  second.send('hello');
  assert.equal(await first.nextText(), 'hello');
  second.ws.close(1000);
  assert.equal((await first.closed).code, 1000);
  await recordedEnd(site);
  assert.deepEqual(lines(site), [
    [site.alice.id, 'hello, Bob — grüß dich 💥'],
    [bob.id, 'hello'],
  ]);
  const [start, end] = ['CPL-1001I', 'CPL-1002I'].map((code) => site.relay.events().find((e) => e.code === code));
  assert.deepEqual([start?.protocol, start?.msgid, end?.msgid, end?.outcome], [200, 162, 112, 'normal']);
});

test('[R13][T14] a user and a device exchange text, recorded with who said it', async (t) => {
  const site = await startSite(t, recorded);
  const { device } = await site.directory.devices.create({ deviceGroupId: site.group.id, name: 'box' });
  const id = `meshmessenger/${site.alice.id}/${device.id}`;
  const user = await join(t, site, id, { userid: site.alice.id, domainid: '' });
  const box = await join(t, site, id, { ruserid: site.alice.id, nodeid: device.id });
  assert.deepEqual([await user.nextText(), await box.nextText()], ['cr', 'cr']);
  user.send('are you there?');
  assert.equal(await box.nextText(), 'are you there?');
  box.send('yes');
  assert.equal(await user.nextText(), 'yes');
  user.ws.close(1000);
  await box.closed;
  await recordedEnd(site);
  assert.deepEqual(lines(site), [
    [site.alice.id, 'are you there?'],
    [device.id, 'yes'],
  ]);
});

test('[T4][R13] a messenger session ends within 1 s when either user is locked, removed, or loses the device', async (t) => {
  const site = await startSite(t);
  const { directory, alice, group } = site;
  const { device } = await directory.devices.create({ deviceGroupId: group.id, name: 'box' });
  const talk = async (other: string, cookie: Record<string, unknown>) => {
    const id = `meshmessenger/${alice.id}/${other}`;
    const first = await joinAgain(t, site, id, { userid: alice.id, domainid: '' });
    const second = await joinAgain(t, site, id, cookie);
    assert.deepEqual([await first.nextText(), await second.nextText()], ['c', 'c']);
    return [first, second];
  };
  const endsInTime = async (what: string, halves: Client[], change: () => Promise<unknown>) => {
    const startMs = performance.now();
    await change();
    for (const half of halves) assert.equal((await half.closed).code, 4410, what);
    assert.ok(performance.now() - startMs < 1000, `${what}: late`);
  };
  const bob = await directory.users.create({ name: 'bob' });
  const asBob = { userid: bob.id, domainid: '' };
  await endsInTime('bob is locked', await talk(bob.id, asBob), () => directory.users.update(bob.id, { locked: true }));
  const id = `meshmessenger/${alice.id}/${bob.id}`;
  await assert.rejects(join(t, site, id, asBob), /refused with 401/, 'and stays out');
  await directory.users.update(bob.id, { locked: false });
  await endsInTime('bob is removed', await talk(bob.id, asBob), () => directory.users.remove(bob.id));
  const asBox = { ruserid: alice.id, nodeid: device.id };
  await endsInTime('alice is locked', await talk(device.id, asBox), () =>
    directory.users.update(alice.id, { locked: true }),
  );
  await directory.users.update(alice.id, { locked: false });
  await endsInTime('alice loses the device', await talk(device.id, asBox), () =>
    directory.links.revoke(alice.id, group.id),
  );
});
