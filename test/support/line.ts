import { once } from 'node:events';
import { connect as connectTcp, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { ApiClient } from '../../src/clients/api.ts';
import { forwardTcp, type Listener } from '../../src/clients/forward.ts';
import type { CoupletError } from '../../src/core/errors.ts';
import { keepable } from './control-server.ts';
import { addAgent, type Site, type SiteAgent, startSite } from './site.ts';

/** The whole way of a forwarded connection, in this process. */
export interface Line {
  readonly site: Site;
  readonly agent: SiteAgent;
  /** How the forward's connections ended; `undefined`: well. */
  readonly errors: (CoupletError | undefined)[];
  /** A forward to this target. */
  listen(port: number, host?: string): Promise<Listener>;
  /** A local connection to this target, through the whole line. */
  dial(port: number, host?: string): Promise<Socket>;
}

/** Forward, relay and agent in this process, by the API. */
export async function startLine(t: TestContext): Promise<Line> {
  const site = await startSite(t);
  const agent = await addAgent(t, site);
  const scopes = ['devices:read', 'tunnels:write'];
  const { secret } = await site.directory.apiTokens.create(site.alice.id, { name: 'test', scopes });
  const api = new ApiClient(site.url, {}, secret);
  const errors: Line['errors'] = [];
  const events = {
    opened: () => undefined,
    closed: (_: unknown, error: CoupletError | undefined) => errors.push(keepable(error)),
  };
  const options = { device: agent.nodeid, open: api.openTunnel, security: {}, events };
  const listen = async (port: number, host = '127.0.0.1') => {
    const listener = await forwardTcp({ bindAddress: '127.0.0.1', localPort: 0 }, { host, port }, options);
    t.after(() => listener.close());
    return listener;
  };
  const dial = async (port: number, host?: string) => {
    const listener = await listen(port, host);
    const socket = connectTcp({ port: listener.port, host: '127.0.0.1', allowHalfOpen: true });
    t.after(() => socket.destroy());
    await once(socket, 'connect');
    return socket;
  };
  return { site, agent, errors, listen, dial };
}
