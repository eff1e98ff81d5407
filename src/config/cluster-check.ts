import { parseLinkUrl } from './cluster.ts';
import { shown } from './errors.ts';
import type { Config } from './schema.ts';
import { isWildcard, parseListen } from './setting.ts';

/** Adds a line for every pair of settings that do not fit together. */
export function crossCheckCluster(config: Config['cluster'], problems: string[]): void {
  const { redis, linkListen, advertise, linkCertFile, linkKeyFile, heartbeatMs, commandMs } = config;
  if (redis === undefined) return;
  const { host, port } = parseListen(linkListen)!;
  if (advertise === undefined && isWildcard(host)) {
    problems.push(
      `cluster.advertise is not set; it must be the URL under which other servers reach cluster.linkListen, which is ${shown(linkListen)}, a wildcard address`,
    );
  }
  if (advertise === undefined && parseLinkUrl(`ws://${linkListen.replace(/\d+$/, '1')}`) === undefined) {
    problems.push(
      `cluster.linkListen is ${shown(linkListen)}; its host must be one of a URL, or cluster.advertise is set`,
    );
  }
  if (advertise !== undefined && isWildcard(parseLinkUrl(advertise)!.host)) {
    problems.push(`cluster.advertise is ${shown(advertise)}; it must name an address that other servers can reach`);
  }
  if (advertise !== undefined && port === 0) {
    problems.push(
      `cluster.linkListen is ${shown(linkListen)}; its port must be from 1 to 65535 where cluster.advertise is set`,
    );
  }
  if ((linkCertFile === undefined) !== (linkKeyFile === undefined)) {
    const [given, absent] =
      linkCertFile === undefined ? ['linkKeyFile', 'linkCertFile'] : ['linkCertFile', 'linkKeyFile'];
    problems.push(
      `cluster.${absent} is not set; it must be the file that belongs to cluster.${given}, or neither is set`,
    );
  }
  if (advertise !== undefined && parseLinkUrl(advertise)!.tls !== (linkCertFile !== undefined)) {
    const [scheme, has] = linkCertFile === undefined ? ['ws', 'is not set'] : ['wss', 'is set'];
    problems.push(
      `cluster.advertise is ${shown(advertise)}; it must begin with ${scheme}:// because cluster.linkCertFile ${has}`,
    );
  }
  if (commandMs > heartbeatMs) {
    problems.push(`cluster.commandMs is ${commandMs}; it must be at most cluster.heartbeatMs, which is ${heartbeatMs}`);
  }
}
