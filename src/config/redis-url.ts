import { parseListen } from './setting.ts';

/** Where Redis is, as `cluster.redis` says it. Holds a password: never for a log. */
export interface RedisTarget {
  readonly kind: 'single' | 'sentinel' | 'cluster';
  readonly tls: boolean;
  /** The server itself, the sentinels, or some servers of the Redis Cluster. At least one. */
  readonly nodes: readonly RedisNode[];
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** What the sentinels call the master; empty without Sentinel. */
  readonly masterName: string;
  readonly database: number;
}

export interface RedisNode {
  readonly host: string;
  readonly port: number;
}

export const redisForms =
  'redis://[USER[:PASS]@]HOST[:PORT][/DB], redis+sentinel://[USER:PASS@]HOST:PORT,…/NAME[/DB] or redis+cluster://[USER:PASS@]HOST:PORT,…, each with rediss in place of redis for TLS';

const shape = /^redis(s)?(?:\+(sentinel|cluster))?:\/\/(?:([^@/?#]*)@)?([^@/?#]+)(?:\/([^?#]*))?$/;
const defaultPorts = { single: 6379, sentinel: 26_379, cluster: 6379 };
const maxDatabase = 16_383;

/** Takes one of {@link redisForms} apart; `undefined` where the text is none. USER and PASS are percent-decoded. */
export function parseRedisUrl(text: string): RedisTarget | undefined {
  const match = shape.exec(text);
  if (match === null) return undefined;
  const [, s, form, userInfo, hosts, path = ''] = match;
  const kind = (form ?? 'single') as RedisTarget['kind'];
  const nodes = hosts!.split(',').map((host) => nodeOf(host, defaultPorts[kind]));
  const names = path === '' ? [] : path.split('/');
  const masterName = kind === 'sentinel' ? names.shift() : '';
  const database = databaseOf(names);
  const login = loginOf(userInfo);
  const isWhole = nodes.every((node) => node !== undefined) && (kind !== 'single' || nodes.length === 1);
  if (!isWhole || database === undefined || login === undefined) return undefined;
  if (masterName === undefined || (kind === 'sentinel' && !/^[A-Za-z0-9._-]{1,128}$/.test(masterName)))
    return undefined;
  // Redis Cluster has the one database 0.
  if (kind === 'cluster' && names.length > 0) return undefined;
  return { kind, tls: s !== undefined, nodes: nodes as RedisNode[], ...login, masterName, database };
}

function nodeOf(text: string, port: number): RedisNode | undefined {
  const hasPort = /^(?:\[[^\]]*\]|[^:[]*):/.test(text);
  const node = parseListen(hasPort ? text : `${text}:${port}`);
  return node === undefined || node.port === 0 ? undefined : node;
}

function databaseOf(names: readonly string[]): number | undefined {
  const [text] = names;
  if (text === undefined) return 0;
  if (names.length > 1 || !/^[0-9]{1,5}$/.test(text)) return undefined;
  return Number(text) <= maxDatabase ? Number(text) : undefined;
}

function loginOf(userInfo: string | undefined): Pick<RedisTarget, 'username' | 'password'> | undefined {
  if (userInfo === undefined) return { username: undefined, password: undefined };
  const colon = userInfo.indexOf(':');
  const [user, pass] = colon < 0 ? [userInfo, ''] : [userInfo.slice(0, colon), userInfo.slice(colon + 1)];
  try {
    const username = user === '' ? undefined : decodeURIComponent(user);
    return { username, password: decodeURIComponent(pass) };
  } catch {
    // A percent sign that encodes nothing.
    return undefined;
  }
}

/** `HOST:PORT`, for errors and keys of maps. */
export function nodeText({ host, port }: RedisNode): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** [R8] The target as a log may show it: no user, no password. */
export function targetText({ kind, tls, nodes, masterName, database }: RedisTarget): string {
  const scheme = `${tls ? 'rediss' : 'redis'}${kind === 'single' ? '' : `+${kind}`}`;
  const path = [masterName, ...(database === 0 ? [] : [database])].filter((part) => part !== '');
  return `${scheme}://${nodes.map(nodeText).join(',')}${path.map((part) => `/${part}`).join('')}`;
}
