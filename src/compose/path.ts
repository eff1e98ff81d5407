import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Config } from '../config/schema.ts';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { loadNative, type NativeAddon } from '../native/binding.ts';
import type { Forwarder } from '../relay/forwarder.ts';
import { NativeForwarder } from '../relay/native-forwarder.ts';
import { PortableForwarder } from '../relay/portable-forwarder.ts';
import type { TlsFiles } from '../server/app.ts';
import { selfTest } from '../server/self-test.ts';

/** Certificate and key, where both are configured. */
export function tlsFiles({ tls }: Config): TlsFiles | undefined {
  return tls.certFile === undefined || tls.keyFile === undefined
    ? undefined
    : { certFile: tls.certFile, keyFile: tls.keyFile };
}

/** What is told of a certificate that is in use now. */
export function certificateFacts({ certFile }: TlsFiles): {
  readonly fingerprint: string;
  readonly notAfterMs: number;
} {
  const { fingerprint256, validTo } = new X509Certificate(readFileSync(certFile));
  return { fingerprint: fingerprint256, notAfterMs: Date.parse(validTo) };
}

/** The way messages take. */
export interface Path {
  readonly addon: NativeAddon | undefined;
  readonly forwarder: Forwarder;
  /** Why messages do not go the native way; empty where they do. */
  readonly portableBecause: string;
}

/** Chooses the messages' path: native where its self-test passes, else portable (`relay.forwarder`). */
export async function choosePath(config: Config, clock: Clock): Promise<Path> {
  const wanted = config.relay.forwarder;
  const { addon, error } = loadNative();
  if (wanted === 'portable') {
    return { addon, forwarder: new PortableForwarder(clock), portableBecause: 'relay.forwarder is portable' };
  }
  let fault = error;
  if (addon !== undefined) {
    const tls = tlsFiles(config);
    fault = await selfTest(addon, undefined);
    if (fault === '' && tls !== undefined) fault = await selfTest(addon, tls);
    if (fault === '') return { addon, forwarder: new NativeForwarder(addon), portableBecause: '' };
  }
  if (wanted === 'native') {
    throw new CoupletError('CPL_NATIVE', `relay.forwarder is native, and that does not work here: ${fault}`, {
      level: 'error',
    });
  }
  return { addon: undefined, forwarder: new PortableForwarder(clock), portableBecause: fault };
}
