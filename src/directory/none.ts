import { CoupletError } from '../core/errors.ts';
import type { Directory } from './directory.ts';
import { nothing } from './stores/access.ts';

function refuse(): never {
  const text = 'there is no directory: set `directory` to sqlite or postgres:URL to keep users and devices';
  throw new CoupletError('CPL_DIRECTORY_NONE', text, { httpStatus: 409 });
}

/** A part whose reads find nothing, as `answers` says, and all else of which is refused. */
function part<T extends object>(answers: Partial<T>): T {
  return new Proxy(answers as T, {
    get: (known, name) => {
      if (Object.hasOwn(known, name)) return known[name as keyof T];
      // A promise's `then` is looked for on everything that is awaited.
      return typeof name === 'string' && name !== 'then' ? async () => refuse() : undefined;
    },
  });
}

const none = async () => undefined;
const empty = async () => [];

/**
 * [T3] `none`: identities come from cookies alone, every domain is known [R1], nobody has rights over anything, and
 * nothing can be kept.
 */
export function noDirectory(): Directory {
  return {
    kind: 'none',
    domains: part<Directory['domains']>({ isKnown: async () => true, get: none, list: empty }),
    users: part<Directory['users']>({ get: none, list: empty, count: async () => 0 }),
    userGroups: part<Directory['userGroups']>({ get: none, list: empty, members: empty, groupsOf: empty }),
    deviceGroups: part<Directory['deviceGroups']>({ get: none, list: empty }),
    devices: part<Directory['devices']>({ get: none, list: empty }),
    links: part<Directory['links']>({ list: empty }),
    shares: part<Directory['shares']>({
      get: none,
      list: empty,
      check: async () => ({ ok: false, refusal: 'unknown', share: undefined }),
    }),
    loginSessions: part<Directory['loginSessions']>({ verify: none, list: empty }),
    apiTokens: part<Directory['apiTokens']>({ verify: none, list: empty }),
    events: part<Directory['events']>({ query: async () => ({ events: [], next: undefined }) }),
    auditHeads: part<Directory['auditHeads']>({ note: none, list: empty }),
    access: async (userId, deviceId) => nothing(userId, deviceId, 'user-unknown'),
    standing: () => ({ known: false, locked: false, sinceMs: 0 }),
    devicesOf: empty,
    usersOf: empty,
    login: async () => refuse(),
    onChange: () => () => {},
    catchUp: async () => {},
    identity: async () => 'none',
    ping: async () => {},
    close: async () => {},
  };
}
