import { lookup } from 'node:dns';
import { BlockList, connect as connectTcp, isIP, type LookupFunction, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { CoupletError } from '../core/errors.ts';
import type { ServerEntry } from './servers.ts';

/** The networks in which servers of the cluster may be dialled (`cluster.peerNetworks`) [K3]. */
export class PeerNetworks {
  readonly #networks = new BlockList();

  /**
   * @param entries addresses or networks, `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`
   * @throws CoupletError `CPL_PEER_NETWORK` naming the first entry that is neither
   */
  constructor(entries: readonly string[]) {
    for (const entry of entries) this.#add(entry);
  }

  includes(address: string): boolean {
    const family = isIP(address);
    return family !== 0 && this.#networks.check(address, family === 4 ? 'ipv4' : 'ipv6');
  }

  #add(entry: string): void {
    const [address = '', prefix, ...rest] = entry.split('/');
    const family = isIP(address);
    const most = family === 4 ? 32 : 128;
    const bits = prefix === undefined ? most : /^[0-9]{1,3}$/.test(prefix) ? Number(prefix) : most + 1;
    if (family === 0 || bits > most || rest.length > 0 || address.includes('%')) {
      const rule = 'must be an address or a network, as 10.0.0.1, 10.0.0.0/8 or fd00::/8';
      throw new CoupletError('CPL_PEER_NETWORK', `peer network ${JSON.stringify(entry)} ${rule}`, { level: 'error' });
    }
    this.#networks.addSubnet(address, bits, family === 4 ? 'ipv4' : 'ipv6');
  }
}

/** The certificate's SHA-256 in one spelling: 64 hex digits, lower case, without colons. */
function plainFingerprint(text: string): string {
  return text.replaceAll(':', '').toLowerCase();
}

/** What `lookup` finds for a name must be in the networks, all of it: any of it may be dialled. */
function checkedLookup(networks: PeerNetworks): LookupFunction {
  return (host, options, done) => {
    lookup(host, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return done(error, '', 0);
      const stranger = addresses.find(({ address }) => !networks.includes(address));
      const first = addresses[0];
      if (stranger !== undefined || first === undefined) return done(strangerError(stranger?.address ?? host), '', 0);
      if (options.all === true) done(null, addresses);
      else done(null, first.address, first.family);
    });
  };
}

function strangerError(address: string): CoupletError {
  return new CoupletError('CPL_PEER', `the server at ${address} is not dialled: not in cluster.peerNetworks`);
}

/**
 * [K3] A connection to another server's link listener: only to addresses in the peer networks, and with TLS only to the
 * holder of the certificate in its entry. Nothing is sent to anyone else.
 * @throws CoupletError `CPL_PEER`
 */
export function connectPeer(entry: ServerEntry, networks: PeerNetworks, withinMs: number): Promise<Socket> {
  const url = URL.canParse(entry.linkUrl) ? new URL(entry.linkUrl) : undefined;
  if (url === undefined || !/^wss?:$/.test(url.protocol)) {
    return Promise.reject(new CoupletError('CPL_PEER', 'the server has no link URL that reads ws://HOST:PORT'));
  }
  const isTls = url.protocol === 'wss:';
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const port = Number(url.port === '' ? (isTls ? 443 : 80) : url.port);
  if (isIP(host) !== 0 && !networks.includes(host)) return Promise.reject(strangerError(host));
  const target = { host, port, lookup: checkedLookup(networks) };
  // Pinned: whose certificate it is, not who signed it, is what counts.
  const socket = isTls
    ? connectTls({ ...target, rejectUnauthorized: false, ...(isIP(host) === 0 && { servername: host }) })
    : connectTcp(target);
  return new Promise((resolve, reject) => {
    const fail = (why: string, cause?: unknown) => {
      clearTimeout(timer);
      socket.destroy();
      reject(new CoupletError('CPL_PEER', `the server at ${url.host} ${why}`, { cause }));
    };
    const onError = (error: NodeJS.ErrnoException) => {
      if (error instanceof CoupletError) fail(`is not dialled: ${error.message}`, error);
      else fail(`cannot be reached: ${error.code ?? error.message}`, error);
    };
    const timer = setTimeout(() => fail(`did not answer within ${withinMs} ms`), withinMs);
    // Stays: whoever has the socket hears of its end by `close`.
    socket.on('error', onError);
    socket.once(isTls ? 'secureConnect' : 'connect', () => {
      if ('getPeerX509Certificate' in socket) {
        const held = plainFingerprint(socket.getPeerX509Certificate()?.fingerprint256 ?? '');
        if (held === '' || held !== plainFingerprint(entry.fingerprint)) {
          return fail('holds another certificate than the one in its entry');
        }
      }
      clearTimeout(timer);
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}
