import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { systemClock } from '../../src/core/clock.ts';
import type { Directory } from '../../src/directory/directory.ts';
import { openDirectory } from '../../src/directory/open.ts';
import { connect } from '../support/client.ts';
import { Postgres } from '../support/postgres.ts';
import { enrolRaw } from '../support/raw-agent.ts';
import { until } from '../support/relay.ts';
import { routedUrl, type Site, startSite } from '../support/site.ts';

let postgres: Postgres;
before(async () => {
  postgres = await Postgres.start();
});
after(() => postgres.stop());

/** The same database, opened as another process would. */
async function elsewhere(t: TestContext, site: Site, url: string): Promise<Directory> {
  const file = join(site.relay.folder, 'data', 'directory.sqlite');
  const directory = await openDirectory({
    directory: url,
    file,
    clock: systemClock,
    onError: (error) => t.diagnostic(String(error)),
  });
  t.after(() => directory.close());
  return directory;
}

for (const kind of ['sqlite', 'postgres'] as const) {
  test(`[T3] [T4] another process on the same ${kind} database takes rights away: sessions end within 1 s`, async (t) => {
    const url = kind === 'sqlite' ? 'sqlite' : await postgres.database();
    const site = await startSite(t, { settings: { directory: url } });
    const other = await elsewhere(t, site, url);
    const { device, join: code } = await other.devices.create({ deviceGroupId: site.group.id, name: 'box' });
    const agent = await enrolRaw(t, site.url, code.code);
    const begin = async () => {
      const user = await connect(t, routedUrl(site, { nodeid: device.id, tcpport: 22 }));
      const { value } = await agent.command();
      const mate = await connect(t, `${site.url}${value.path}?id=${value.id}&rauth=${encodeURIComponent(value.rauth)}`);
      assert.deepEqual([await user.nextText(), await mate.nextText()], ['c', 'c']);
      return user;
    };
    const first = await begin();
    await other.links.revoke(site.alice.id, site.group.id);
    const late = new Promise((resolve) => setTimeout(resolve, 1000, 'late').unref());
    assert.deepEqual(await Promise.race([first.closed, late]), { code: 4410, reason: 'revoked' });
    await other.links.grant(site.alice.id, site.group.id, 8);
    let command: Promise<string> | undefined;
    // The other way round the change is heard as fast.
    await until(
      async () => {
        command ??= agent.command().then(() => 'sent');
        const again = await connect(t, routedUrl(site, { nodeid: device.id, tcpport: 22 }));
        return (await Promise.race([command, again.closed])) === 'sent';
      },
      'the right is back',
      1000,
    );
    await other.devices.revoke(device.id);
    assert.equal((await agent.client.closed).code, 4410);
    await until(
      async () => (await other.events.query({ codes: ['CPL-1004I'] })).events.length === 1,
      'the event is in the database [R31]',
    );
    const { events } = await other.events.query({ nodeId: device.id });
    const codes = events.map(({ code }) => code);
    for (const expected of ['CPL-1001I', 'CPL-1002I', 'CPL-1301I', 'CPL-1401I', 'CPL-1405I']) {
      assert.ok(codes.includes(expected), `${expected} of ${codes}`);
    }
  });
}

test('[T3] a directory that does not answer: not ready, halves are refused with 503, and it comes back by itself', async (t) => {
  const own = await Postgres.start();
  t.after(() => own.stop());
  const site = await startSite(t, { settings: { directory: await own.database() } });
  const ready = async () =>
    (await fetch(`http://127.0.0.1:${site.relay.port}/readyz`, { headers: { connection: 'close' } })).status;
  assert.equal(await ready(), 200);
  await own.crash();
  await assert.rejects(connect(t, site.relay.url('user', 'x', {}, 'somebody-new')), /refused with 503/);
  await until(async () => (await ready()) === 503, 'it says that it is not ready', 15_000);
  await own.resume();
  await until(async () => (await ready()) === 200, 'it is ready again', 20_000);
  await connect(t, site.relay.url('user', 'x'));
});
