import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { canonicalAddress } from '../core/canonical-address.ts';
import { CoupletError } from '../core/errors.ts';

/** What a connection and its request say about where it comes from; each is unproven but the first. */
export interface AddressClaims {
  /** The TCP peer's address. */
  readonly tcp: string;
  /** Source address of a PROXY protocol v2 header; empty where there was none. */
  readonly proxied: string;
  /**
   * The values of **all** `X-Forwarded-For` headers in their order, joined by commas; empty where there was none. A
   * proxy may add a header of its own after one that the client made up, so the first alone proves nothing.
   */
  readonly forwardedFor: string;
}

type Network = [ipaddr.IPv4 | ipaddr.IPv6, number];

/** The proxies whose word about a client's address is believed (R12). */
export class TrustedProxies {
  readonly #networks: readonly Network[];

  /**
   * @param entries addresses or networks, `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`
   * @throws CoupletError `CPL_TRUSTED_PROXY` naming the first entry that is neither
   */
  constructor(entries: readonly string[]) {
    this.#networks = entries.map(parseNetwork);
  }

  /** True for a canonical address in one of the networks. */
  includes(address: string): boolean {
    if (this.#networks.length === 0) return false;
    const parsed = ipaddr.parse(address);
    return this.#networks.some(([network, bits]) => network.kind() === parsed.kind() && parsed.match(network, bits));
  }

  /**
   * [R12] The client's address. Claims are followed from the TCP peer outward, PROXY protocol first, then
   * X-Forwarded-For from right to left, only as long as the address reached so far is a trusted proxy. An entry that is
   * no address ends the walk at the proxy that passed it on: what lies behind it is not believed.
   */
  clientAddress(claims: AddressClaims): string {
    const { tcp } = claims;
    let address = canonicalAddress(tcp) ?? tcp;
    if (!this.#trusts(address)) return address;
    const { proxied } = claims;
    if (proxied !== '') {
      const source = canonicalAddress(proxied);
      if (source === undefined) return address;
      address = source;
    }
    if (!this.#trusts(address)) return address;
    const { forwardedFor } = claims;
    let end = forwardedFor.length;
    while (end > 0 && this.#trusts(address)) {
      const comma = forwardedFor.lastIndexOf(',', end - 1);
      const entry = forwardedAddress(forwardedFor.slice(comma + 1, end).trim());
      if (entry === undefined) break;
      address = entry;
      end = comma;
    }
    return address;
  }

  #trusts(address: string): boolean {
    return this.#networks.length > 0 && isIP(address) !== 0 && this.includes(address);
  }
}

function parseNetwork(entry: string): Network {
  const slash = entry.indexOf('/');
  const address = canonicalAddress(slash < 0 ? entry : entry.slice(0, slash));
  if (address !== undefined) {
    const parsed = ipaddr.parse(address);
    const mappedBits = parsed.kind() === 'ipv4' && entry.includes(':') ? 96 : 0;
    const most = parsed.kind() === 'ipv4' ? 32 : 128;
    if (slash < 0) return [parsed, most];
    const prefix = entry.slice(slash + 1);
    const bits = Number(prefix) - mappedBits;
    if (/^[0-9]{1,3}$/.test(prefix) && bits >= 0 && bits <= most) return [parsed, bits];
  }
  const rule = 'must be an address or a network, as 10.0.0.1, 10.0.0.0/8 or fd00::/8';
  throw new CoupletError('CPL_TRUSTED_PROXY', `trusted proxy ${JSON.stringify(entry)} ${rule}`, { level: 'error' });
}

/** One X-Forwarded-For entry: an address, which some proxies write with a port, `1.2.3.4:5` or `[::1]:5`. */
function forwardedAddress(entry: string): string | undefined {
  const bracketed = /^\[([^\]]*)\](?::[0-9]{1,5})?$/.exec(entry);
  if (bracketed !== null) return isIP(bracketed[1]!) === 6 ? canonicalAddress(bracketed[1]!) : undefined;
  const withPort = /^([0-9.]+):[0-9]{1,5}$/.exec(entry);
  return canonicalAddress(withPort === null ? entry : withPort[1]!);
}
