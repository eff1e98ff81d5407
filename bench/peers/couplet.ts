import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CookieSealer } from '../../src/auth/cookie.ts';
import { LoginKey } from '../../src/auth/keys.ts';
import { systemClock } from '../../src/core/clock.ts';
import { benchCertificate, certificateUnavailable } from './certificate.ts';
import { type Peer, type RunningPeer, startRelay } from './peer.ts';
import { RecordingFolder, recordingsUnavailable } from './recordings.ts';

const program = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
const userid = 'user//bench';

/** All halves of a run come from one address within one second: only the limits that this would hit are raised. */
const raisedLimits = {
  COUPLET_RELAY_UPGRADES_PER_ADDRESS_PER_SECOND: '100000',
  COUPLET_RELAY_MAX_WAITING_PER_ADDRESS: '100000',
};

/** A running server and where its files are; they go with `stop()`. */
export interface RunningCouplet extends RunningPeer {
  readonly dataDir: string;
}

/** Starts `couplet serve` with `settings` (environment variables) beside what every run has. */
export async function startCouplet(
  cpu: number | undefined,
  settings: Readonly<Record<string, string>> = {},
  key = LoginKey.generate(),
): Promise<RunningCouplet> {
  const data = mkdtempSync(join(tmpdir(), 'couplet-bench-'));
  const remove = (): void => {
    process.off('exit', remove);
    rmSync(data, { recursive: true, force: true });
  };
  process.once('exit', remove);
  const options: Record<string, string> = {
    '--listen': '127.0.0.1:0',
    '--metrics-listen': '127.0.0.1:0',
    '--data': data,
    '--login-key': key.toHex(),
    '--log-level': 'warn',
  };
  const sealer = new CookieSealer(key, systemClock);
  const user = sealer.seal({ userid, domainid: '' });
  const device = sealer.seal({ ruserid: userid });
  try {
    const relay = await startRelay(cpu, [process.execPath, program, 'serve', ...Object.entries(options).flat()], {
      ...raisedLimits,
      COUPLET_DIRECTORY: 'none',
      ...settings,
    });
    return {
      pid: relay.pid,
      dataDir: data,
      port: relay.port,
      userPath: `/meshrelay.ashx?auth=${user}&id=bench-{pair}&browser=1`,
      devicePath: `/meshrelay.ashx?rauth=${device}&id=bench-{pair}`,
      stop: () => relay.stop().finally(remove),
    };
  } catch (error) {
    remove();
    throw error;
  }
}

/** Why none can be started, in words. */
export const coupletUnavailable = (): string | undefined =>
  existsSync(program) ? undefined : 'dist/main.js is missing: run `npm run build` first';

/** Couplet as it is shipped: the built server with everything on that is on by default. */
export const coupletPeer: Peer = {
  name: 'couplet',
  unavailable: coupletUnavailable,
  start: (cpu) => startCouplet(cpu),
};

/** The same behind its own TLS: what a relay costs that no proxy stands before. */
export const coupletTlsPeer: Peer = {
  name: 'couplet-tls',
  unavailable: () => coupletUnavailable() ?? certificateUnavailable(),
  start: async (cpu) => {
    const { certFile, keyFile } = benchCertificate();
    const settings = { COUPLET_TLS_CERT_FILE: certFile, COUPLET_TLS_KEY_FILE: keyFile };
    return { ...(await startCouplet(cpu, settings)), tls: true };
  },
};

/** The same on the path it takes where the addon does not load: messages pass through JavaScript. */
export const coupletPortablePeer: Peer = {
  name: 'couplet-portable',
  unavailable: coupletUnavailable,
  start: (cpu) => startCouplet(cpu, { COUPLET_RELAY_FORWARDER: 'portable' }),
};

/** The same with the directory that is the default: it is asked about each half, and events go to it too. */
export const coupletDirectoryPeer: Peer = {
  name: 'couplet-directory',
  unavailable: coupletUnavailable,
  start: (cpu) => startCouplet(cpu, { COUPLET_DIRECTORY: 'sqlite' }),
};

/** The same, recording all sessions, with all that belongs to a recording by default: times to the microsecond, checksums, syncs. */
export const coupletRecordedPeer: Peer = {
  name: 'couplet-recorded',
  unavailable: () => coupletUnavailable() ?? recordingsUnavailable(),
  start: async (cpu) => {
    const recordings = new RecordingFolder();
    try {
      const settings = {
        COUPLET_RECORDING_MODE: 'strict',
        COUPLET_RECORDING_DIR: recordings.path,
        COUPLET_RECORDING_INDEX: 'false',
      };
      return { ...(await startCouplet(cpu, settings)), recordings };
    } catch (error) {
      recordings.remove();
      throw error;
    }
  },
};
