import { lookup as systemLookup } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { CoupletError } from '../../core/errors.ts';

/** One address to dial. */
export interface TargetAddress {
  readonly address: string;
  readonly family: 4 | 6;
}

/** Resolves a name to addresses. */
export type Resolve = (name: string) => Promise<readonly TargetAddress[]>;

interface Rule {
  /** An address range, a DNS name (lower case, no final dot), or everything. */
  readonly host: { readonly range: [ipaddr.IPv4 | ipaddr.IPv6, number] } | { readonly name: string } | 'any';
  readonly firstPort: number;
  readonly lastPort: number;
}

const loopback = ['127.0.0.0/8:*', '[::1]:*'];

/**
 * [T8] What an agent may dial: its own list, whatever a tunnel command asks for. Default: loopback.
 *
 * A rule reads HOST:PORT. HOST: an IPv4 address, an IPv6 address in brackets, either with `/BITS`, a DNS name, or `*`
 * (every address). PORT: a number, FIRST-LAST, or `*`.
 *
 * A name is resolved once and the *addresses* are held against the list, then those are dialled: the answer of a name
 * server that changes in between is of no use to anybody (DNS rebinding). A rule with a name lets that name through to
 * whatever it resolves to, except for addresses that mean this machine or its link: those need an address rule.
 */
export class TargetList {
  readonly #rules: readonly Rule[];
  readonly #resolve: Resolve;

  /** @throws CoupletError `CPL_AGENT_ALLOW` for a rule that is none. */
  constructor(rules: readonly string[] = loopback, resolve: Resolve = resolveBySystem) {
    this.#rules = rules.map(parseRule);
    this.#resolve = resolve;
  }

  /**
   * The addresses of `host` that may be dialled at `port`, in the resolver's order; at least one.
   * @throws CoupletError (as rejection) `CPL_AGENT_TARGET` where there is none, `CPL_AGENT_RESOLVE` for an unknown name.
   */
  async check(host: string, port: number): Promise<readonly TargetAddress[]> {
    const version = isIP(host);
    const name = version === 0 ? plainName(host) : '';
    const found = version === 0 ? await this.#addresses(name, host) : [{ address: host, family: version as 4 | 6 }];
    const allowed = found.map(meant).filter((address) => this.#allows(address, name, port));
    if (allowed.length > 0) return allowed;
    const what = version === 0 ? `${host} (${found.map(({ address }) => address).join(', ')})` : host;
    throw new CoupletError('CPL_AGENT_TARGET', `${what} port ${port} is not among the targets that this agent allows`);
  }

  async #addresses(name: string, host: string): Promise<readonly TargetAddress[]> {
    try {
      return await this.#resolve(name);
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code ?? String(cause);
      throw new CoupletError('CPL_AGENT_RESOLVE', `cannot resolve ${host}: ${why}`, { cause });
    }
  }

  #allows({ address }: TargetAddress, name: string, port: number): boolean {
    if (address.includes('%')) return false; // a zone: link-local, never routed
    const parsed = ipaddr.parse(address);
    return this.#rules.some((rule) => {
      if (port < rule.firstPort || port > rule.lastPort) return false;
      if (rule.host === 'any') return true;
      if ('name' in rule.host) {
        if (rule.host.name === 'localhost') return parsed.range() === 'loopback';
        return rule.host.name === name && isElsewhere(parsed);
      }
      const [range, bits] = rule.host.range;
      return range.kind() === parsed.kind() && parsed.match(range as never, bits);
    });
  }
}

/** What an address reaches: the unspecified one this machine, an IPv4-mapped one its IPv4 address. */
function meant(target: TargetAddress): TargetAddress {
  if (target.address.includes('%')) return target;
  const parsed = ipaddr.process(target.address);
  const isIPv4 = parsed.kind() === 'ipv4';
  if (parsed.range() === 'unspecified') {
    return isIPv4 ? { address: '127.0.0.1', family: 4 } : { address: '::1', family: 6 };
  }
  return { address: parsed.toString(), family: isIPv4 ? 4 : 6 };
}

/** False for loopback, link-local, multicast, broadcast and the like. */
function isElsewhere(address: ipaddr.IPv4 | ipaddr.IPv6): boolean {
  return ['unicast', 'private', 'uniqueLocal', 'carrierGradeNat'].includes(address.range());
}

function plainName(name: string): string {
  return name.toLowerCase().replace(/\.$/, '');
}

const resolveBySystem: Resolve = (name) =>
  new Promise((resolve, reject) => {
    systemLookup(name, { all: true, verbatim: true }, (error, found) => {
      if (error) reject(error);
      else resolve(found.map(({ address, family }) => ({ address, family: family === 6 ? 6 : 4 })));
    });
  });

/** A `lookup` for `net.connect` that gives these addresses and asks nobody. */
export function lookupOf(addresses: readonly TargetAddress[]): LookupFunction {
  return (_host, options, callback) => {
    const [first] = addresses;
    if (options.all === true) callback(null, [...addresses]);
    else callback(null, first?.address ?? '', first?.family ?? 4);
  };
}

/** Takes a comma-separated list apart; commas do not occur in rules. */
export function parseAllowList(text: string): string[] {
  const rules = text.split(',').map((rule) => rule.trim());
  rules.forEach(parseRule);
  return rules;
}

function parseRule(text: string): Rule {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\*|\d{1,5}(?:-\d{1,5})?)$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const [firstPort, lastPort] = ports(match?.[3] ?? '');
  if (host === undefined || firstPort < 1 || lastPort > 65_535 || firstPort > lastPort) throw badRule(text);
  return { host: parseHost(host, match?.[1] !== undefined, text), firstPort, lastPort };
}

function ports(text: string): [number, number] {
  if (text === '*') return [1, 65_535];
  const [first = '', last = first] = text.split('-');
  return [Number(first), Number(last)];
}

function parseHost(host: string, inBrackets: boolean, rule: string): Rule['host'] {
  if (host === '*' && !inBrackets) return 'any';
  const [address = '', bits, ...more] = host.split('/');
  if (more.length > 0) throw badRule(rule);
  const version = isIP(address);
  if (version === 0 || address.includes('%')) {
    const isName = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*\.?$/i.test(host);
    if (inBrackets || !isName || /^[\d.]+$/.test(host)) throw badRule(rule);
    return { name: plainName(host) };
  }
  const maxBits = version === 4 ? 32 : 128;
  const prefix = bits === undefined ? maxBits : /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
  if ((version === 6) !== inBrackets || prefix < 0 || prefix > maxBits) throw badRule(rule);
  const parsed = ipaddr.parse(address);
  // A mapped range is an IPv4 range: that is how targets are compared.
  if (parsed instanceof ipaddr.IPv6 && parsed.isIPv4MappedAddress() && prefix >= 96) {
    return { range: [parsed.toIPv4Address(), prefix - 96] };
  }
  return { range: [parsed, prefix] };
}

function badRule(rule: string): CoupletError {
  const allowed =
    'HOST:PORT with HOST an address, [IPv6], ADDRESS/BITS, a name or *, and PORT a number, FIRST-LAST or *';
  return new CoupletError('CPL_AGENT_ALLOW', `--allow ${JSON.stringify(rule)} is no target; it must read ${allowed}`);
}
