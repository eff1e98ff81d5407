/** A domain's name in a path; the default domain is the empty string and has no part in the path. */
const domainName = /^[A-Za-z0-9._-]{1,64}$/;
const relayPath = /^(?:\/([^/]+))?\/(?:meshrelay\.ashx|relay)$/;

/**
 * [R1] The domain of a relay path: `/meshrelay.ashx`, `/DOMAIN/meshrelay.ashx`, and the same under the canonical name,
 * `/relay` and `/DOMAIN/relay`. `undefined` for every other path (404). Domains are 1 to 64 letters, digits, `.`, `_`
 * and `-`, never `.` or `..`; escapes are not decoded.
 */
export function relayPathDomain(path: string): string | undefined {
  const match = relayPath.exec(path);
  if (match === null) return undefined;
  const domain = match[1];
  if (domain === undefined) return '';
  return domainName.test(domain) && domain !== '.' && domain !== '..' ? domain : undefined;
}

/** The path on which halves of a domain meet; the inverse of `relayPathDomain`. */
export function relayPathOf(domain: string): string {
  return domain === '' ? '/meshrelay.ashx' : `/${domain}/meshrelay.ashx`;
}

/** The same path under the canonical name, `/relay`. */
export function canonicalRelayPathOf(domain: string): string {
  return domain === '' ? '/relay' : `/${domain}/relay`;
}
