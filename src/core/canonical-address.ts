import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/**
 * [R12] An address as it is written everywhere: IPv4 and IPv4-mapped IPv6 as dotted IPv4, IPv6 in its shortest form,
 * lower-case, without zone. `undefined` where the text is no address in strict notation.
 */
export function canonicalAddress(text: string): string | undefined {
  const family = isIP(text);
  if (family === 4) return text;
  if (family === 0) return undefined;
  // A zone means something on one machine only; ipaddr.js throws at some that Node takes.
  const [parts] = text.split('%');
  const address = ipaddr.IPv6.parse(parts!);
  if (address.isIPv4MappedAddress()) return address.toIPv4Address().toString();
  return address.toRFC5952String();
}
