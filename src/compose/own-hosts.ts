import { hostname, networkInterfaces } from 'node:os';
import { parseListen } from '../config/setting.ts';

const anyAddress = new Set(['0.0.0.0', '::']);
const loopback = ['127.0.0.1', '[::1]', 'localhost'];

/**
 * [T9] `HOST:PORT` under which agents may have reached this server, lower-case: what it listens on, and the configured
 * names. An agent signs the one it dialled, so that its proof is of no use to a server of another name.
 * @param host listening host, @param port listening port, @param names `agents.hosts`
 */
export function ownHosts(host: string, port: number, names: readonly string[]): ReadonlySet<string> {
  const listened = listenedNames(host).map((name) => `${name}:${port}`);
  const configured = names.flatMap((name) =>
    parseListen(name) === undefined ? [`${name}:443`, `${name}:80`] : [name],
  );
  return new Set([...listened, ...configured].map((name) => name.toLowerCase()));
}

function listenedNames(host: string): string[] {
  if (anyAddress.has(host)) {
    const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
    return [...loopback, hostname(), ...addresses.map(({ address }) => bracketed(address))];
  }
  if (loopback.includes(bracketed(host))) return [bracketed(host), ...loopback];
  return [bracketed(host)];
}

function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}
