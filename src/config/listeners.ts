import { shown } from './errors.ts';
import type { Config } from './schema.ts';
import { canonicalHost, parseListen } from './setting.ts';

/** What is listened on: `count` ports from `port` on, one per worker. */
interface Listener {
  readonly key: string;
  readonly text: string;
  readonly host: string;
  readonly port: number;
  readonly count: number;
}

function listeners({ server, cluster }: Config): Listener[] {
  const { workers } = server;
  const of = (key: string, text: string, count: number) => ({ key, text, ...parseListen(text)!, count });
  const all = [
    of('server.listen', server.listen, server.workerPorts === 'consecutive' ? workers : 1),
    of('server.metricsListen', server.metricsListen, 1),
  ];
  return cluster.redis === undefined ? all : [...all, of('cluster.linkListen', cluster.linkListen, workers)];
}

/** `::` takes the port of IPv4 addresses too; `localhost` may be either loopback address. */
function sharesAddress(a: string, b: string): boolean {
  const [one, other] = [addresses(a), addresses(b)];
  const takesAll = (host: string, all: readonly string[]) =>
    host === '::' || (host === '0.0.0.0' && all.some((address) => !address.includes(':')));
  return one.some((address) => other.includes(address)) || takesAll(one[0]!, other) || takesAll(other[0]!, one);
}

function addresses(host: string): readonly string[] {
  const canonical = canonicalHost(host);
  return canonical === 'localhost' ? ['127.0.0.1', '::1'] : [canonical];
}

/** Adds a problem for every two listeners that would take the same port; 0 is any free one. */
export function crossCheckListeners(config: Config, problems: string[]): void {
  const all = listeners(config).filter(({ port }) => port !== 0);
  for (const [i, later] of all.entries()) {
    for (const first of all.slice(0, i)) {
      const overlap = later.port < first.port + first.count && first.port < later.port + later.count;
      if (!overlap || !sharesAddress(first.host, later.host)) continue;
      const which = later.count === 1 ? 'it' : `the ${later.count} ports from there on`;
      const others = first.count === 1 ? first.key : `the ${first.count} ports from ${first.key} on`;
      problems.push(`${later.key} is ${shown(later.text)}; ${which} must differ from ${others}`);
    }
  }
}
