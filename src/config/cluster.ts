import { z } from 'zod';
import { parseRedisUrl, redisForms } from './redis-url.ts';
import {
  address,
  anyPath,
  isNetwork,
  list,
  maxCount,
  optionalMatching,
  optionalWords,
  parseListen,
  path,
  whole,
  words,
} from './setting.ts';

/*
 * The settings of several servers [K1]. Without `cluster.redis` none of them counts.
 */

export const loopbackAndPrivate = [
  '127.0.0.0/8',
  '::1/128',
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  'fc00::/7',
] as const;

/** Takes `ws://HOST:PORT` or `wss://HOST:PORT` apart; `undefined` where the text is neither. */
export function parseLinkUrl(
  value: string,
): { readonly tls: boolean; readonly host: string; readonly port: number } | undefined {
  const match = /^ws(s)?:\/\/([^/?#@]+)$/.exec(value);
  const at = match === null || !URL.canParse(value) ? undefined : parseListen(match[2]!);
  return at === undefined || at.port === 0 ? undefined : { tls: match![1] !== undefined, ...at };
}

export const cluster = z
  .strictObject({
    redis: optionalMatching((value) => parseRedisUrl(value) !== undefined, 'URL', redisForms, {
      about:
        'Redis through which servers find each other; with it this server is one of a cluster. TLS trusts the authorities that Node.js trusts (`NODE_EXTRA_CA_CERTS` adds to them). Sentinels are asked with USER and PASS where they ask for a password.',
      flag: 'redis',
      secret: true,
    }),
    linkListen: address('127.0.0.1:0', {
      about:
        "Address of the link listener, to which the other servers connect. With several workers each has one of its own: a port is the first one's, and the others follow it.",
      flag: 'link-listen',
    }),
    advertise: optionalMatching(
      (value) => parseLinkUrl(value) !== undefined,
      'ws://HOST:PORT|wss://HOST:PORT',
      'ws://HOST:PORT or wss://HOST:PORT with a port from 1 to 65535',
      {
        about:
          "Under which URL the other servers reach the link listener; `wss` exactly where it has a certificate. Needed where `cluster.linkListen` is a wildcard address; `cluster.linkListen` must then name its port. With several workers it is the first one's, and the others' ports follow it.",
        flag: 'advertise',
        derivedDefault: 'the address and port of the link listener',
      },
    ),
    peerNetworks: list(
      isNetwork,
      'ADDRESS[/BITS],…',
      'a list of addresses or networks, as 10.0.0.0/8',
      { about: 'Where servers of the cluster may be; no link is dialled to any other address.', flag: 'peer-networks' },
      loopbackAndPrivate,
    ),
    linkCertFile: optionalWords(anyPath, 'FILE', path, {
      about: 'Certificate of the link listener in PEM form; with `cluster.linkKeyFile` links use TLS. Peers pin it.',
    }),
    linkKeyFile: optionalWords(anyPath, 'FILE', path, {
      about: 'Private key of `cluster.linkCertFile` in PEM form, not encrypted.',
    }),
    heartbeatMs: whole(10_000, 500, 60_000, {
      about: 'A server silent for this long is dead: sessions over links with it end. It beats four times as often.',
    }),
    commandMs: whole(500, 50, 10_000, {
      about:
        'Deadline of a Redis command. Past it Redis counts as down; a command may still run later, which does no harm.',
    }),
    prefix: words('couplet', /^[A-Za-z0-9._:-]{1,64}$/, 'NAME', '1 to 64 letters, digits, `.`, `_`, `:`, `-`', {
      about: 'Beginning of all keys in Redis; servers with the same one are one cluster.',
    }),
    streamMaxEvents: whole(100_000, 1, maxCount, {
      about: 'About how many events the stream in Redis keeps for live consumers.',
    }),
  })
  .prefault({});
