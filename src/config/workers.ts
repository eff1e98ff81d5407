import { join } from 'node:path';
import { parseLinkUrl } from './cluster.ts';
import { ConfigError, shown } from './errors.ts';
import type { Environment } from './layers.ts';
import type { LoadedConfig } from './load.ts';
import type { Config } from './schema.ts';
import { parseListen } from './setting.ts';

/*
 * Several workers behind one configuration [K8]: a supervising process starts them, each a server of the cluster. What
 * they must not share is told apart by the worker's number, which counts from 1.
 */

const variable = 'COUPLET_WORKER';

/** The number of the worker that this process is; `undefined` where it is none. @throws ConfigError */
export function workerNumber(env: Environment = process.env): number | undefined {
  const text = env[variable];
  if (text === undefined || text === '') return undefined;
  if (/^[1-9][0-9]{0,2}$/.test(text) && process.send !== undefined) return Number(text);
  throw new ConfigError([`${variable} (environment) is ${shown(text)}; it must not be set: serve sets it for workers`]);
}

/** The environment of a worker: this process's own and the worker's number. */
export function workerEnvironment(number: number, env: Environment = process.env): Record<string, string | undefined> {
  return { ...env, [variable]: String(number) };
}

/** Takes the port of a `HOST:PORT` out for another. */
export function withPort(listen: string, port: number): string {
  const { host } = parseListen(listen)!;
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Which worker, and the port that it listens on; 0: any free one. */
export interface WorkerPlace {
  readonly number: number;
  readonly port: number;
}

/** The port of worker `number`, 0 where any free one will do. With shared ports it is the same for all. */
export function workerPort({ server }: Config, number: number): number {
  const { port } = parseListen(server.listen)!;
  return port === 0 || server.workerPorts === 'shared' ? port : port + number - 1;
}

/** The configuration as one worker uses it: its own ports and its own folder of the event log. */
export function forWorker(loaded: LoadedConfig, { number, port }: WorkerPlace): LoadedConfig {
  const config = structuredClone(loaded.config);
  config.server.listen = withPort(config.server.listen, port);
  config.audit.dir = join(config.audit.dir, `worker-${number}`);
  const linkPort = parseListen(config.cluster.linkListen)!.port;
  if (linkPort !== 0) config.cluster.linkListen = withPort(config.cluster.linkListen, linkPort + number - 1);
  config.cluster.advertise = advertised(config.cluster.advertise, number);
  return { ...loaded, config };
}

/** Each worker has a link listener of its own, so that its URL cannot be that of another. */
function advertised(url: string | undefined, number: number): string | undefined {
  if (url === undefined) return undefined;
  const { host, port } = parseLinkUrl(url)!;
  return `${url.slice(0, url.indexOf('://'))}://${withPort(`${host.includes(':') ? `[${host}]` : host}:0`, port + number - 1)}`;
}

/** Holds the settings of workers against the others, and adds a problem for each mistake. */
export function crossCheckWorkers(config: Config, problems: string[]): void {
  const { workers, workerPorts, listen } = config.server;
  if (workers === 1) return;
  const { redis, linkListen, advertise } = config.cluster;
  if (redis === undefined) {
    problems.push(`server.workers is ${workers}; it must be 1 where cluster.redis is not set`);
  }
  const checkRange = (key: string, text: string, { port } = parseListen(text)!) => {
    if (port + workers - 1 > 65_535 && port !== 0) {
      const most = 65_536 - workers;
      problems.push(`${key} is ${shown(text)}; its port must be at most ${most} for ${workers} workers`);
    }
  };
  checkRange('cluster.linkListen', linkListen);
  if (advertise !== undefined) checkRange('cluster.advertise', advertise, parseLinkUrl(advertise)!);
  if (workerPorts === 'shared') return;
  checkRange('server.listen', listen);
}
