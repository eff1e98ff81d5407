import { connect as connectTcp } from 'node:net';
import type { TestContext } from 'node:test';
import { upgradeHead } from './raw-half.ts';
import type { TestRelay } from './relay.ts';

/** Sends bytes on a connection of its own; resolves with everything that came back when the relay ends it. */
export function rawAnswer(t: TestContext, port: number, bytes: Buffer | string, withinMs = 10_000): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host: '127.0.0.1', port });
    t.after(() => socket.destroy());
    const timer = setTimeout(() => reject(new Error(`no end of the answer within ${withinMs} ms`)), withinMs);
    let answer = '';
    socket.setEncoding('latin1').on('data', (text: string) => {
      answer += text;
      // An upgraded connection stands: the head is the answer.
      if (answer.startsWith('HTTP/1.1 101') && answer.includes('\r\n\r\n')) finish();
    });
    const finish = () => {
      clearTimeout(timer);
      resolve(answer);
    };
    socket.on('error', () => {});
    socket.on('close', finish);
    socket.write(bytes);
  });
}

/** The answer to an upgrade request of this path, as it came. */
export function upgradeAnswer(
  t: TestContext,
  relay: { readonly port: number },
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<string> {
  return rawAnswer(t, relay.port, upgradeHead(path, headers));
}

/** The HTTP status of an answer; 0 where there was none. */
export async function status(answer: Promise<string>): Promise<number> {
  return Number(/^HTTP\/1\.1 (\d{3}) /.exec(await answer)?.[1] ?? 0);
}

/** Path and query from parameters in their order; values are percent-escaped. */
export function relayPath(parameters: Readonly<Record<string, string | number>>, path = '/meshrelay.ashx'): string {
  const query = Object.entries(parameters).map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`);
  return `${path}?${query.join('&')}`;
}

/** A user cookie as a test wants it. */
export function userCookie(relay: TestRelay, more: object = {}, user = 'alice', domain = ''): string {
  return relay.sealer.seal({ userid: `user/${domain}/${user}`, domainid: domain, ...more });
}

/** A device cookie as a test wants it. */
export function deviceCookie(relay: TestRelay, more: object = {}, user = 'alice', domain = ''): string {
  return relay.sealer.seal({ ruserid: `user/${domain}/${user}`, ...more });
}
