import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

const ipv4PrefixBits = 24;
const ipv6PrefixBits = 64;

/**
 * [R7] True where both addresses lie in the same /24 (IPv4) or /64 (IPv6); an IPv4-mapped address counts as IPv4. False
 * where one of them is no address in its strict notation, or has a zone.
 */
export function isSameNetwork(a: string, b: string): boolean {
  if (!isPlainAddress(a) || !isPlainAddress(b)) return false;
  const first = ipaddr.process(a);
  const second = ipaddr.process(b);
  if (first.kind() !== second.kind()) return false;
  return first.match(second, first.kind() === 'ipv4' ? ipv4PrefixBits : ipv6PrefixBits);
}

function isPlainAddress(text: string): boolean {
  return isIP(text) !== 0 && !text.includes('%');
}
