import { CoupletError } from '../core/errors.ts';

const hostAndPort = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$/;

/** The relay's own origin as a browser writes it; `undefined` where the Host header is missing or holds more than that. */
export function ownOrigin(scheme: 'http' | 'https', host: string): string | undefined {
  if (!hostAndPort.test(host)) return undefined;
  const url = `${scheme}://${host}`;
  return URL.canParse(url) ? new URL(url).origin : undefined;
}

/**
 * [R10] True where an `Origin` header (the empty string: none was sent) is the relay's own origin or exactly one of the
 * configured. There is no pattern, no default port and no case to play with: browsers send the one canonical form, and
 * what is not in it is refused, as `null` is.
 */
export function isOriginAllowed(
  origin: string,
  scheme: 'http' | 'https',
  host: string,
  allowed: readonly string[],
): boolean {
  if (origin === '' || origin === 'null') return false;
  return origin === ownOrigin(scheme, host) || allowed.includes(origin);
}

/**
 * Checks the configured list.
 * @throws CoupletError `CPL_ORIGIN` naming the first entry that no browser would ever send.
 */
export function checkOrigins(allowed: readonly string[]): readonly string[] {
  for (const origin of allowed) {
    if (/^https?:\/\//.test(origin) && URL.canParse(origin) && new URL(origin).origin === origin) continue;
    const rule = 'must be as https://host or https://host:8443, lower-case, without a path or a default port';
    throw new CoupletError('CPL_ORIGIN', `allowed origin ${JSON.stringify(origin)} ${rule}`, { level: 'error' });
  }
  return allowed;
}
