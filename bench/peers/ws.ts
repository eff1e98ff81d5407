import { fileURLToPath } from 'node:url';
import { benchCertificate, certificateUnavailable } from './certificate.ts';
import { type Peer, type RunningPeer, startRelay } from './peer.ts';
import { RecordingFolder, recordingsUnavailable } from './recordings.ts';

const program = fileURLToPath(new URL('./ws-relay.ts', import.meta.url));

async function start(
  cpu: number | undefined,
  environment: Readonly<Record<string, string>> = {},
): Promise<RunningPeer> {
  return {
    ...(await startRelay(cpu, [process.execPath, '--import', 'tsx', program], environment)),
    userPath: '/meshrelay.ashx?id=bench-{pair}&browser=1',
    devicePath: '/meshrelay.ashx?id=bench-{pair}',
  };
}

/** The smallest correct relay on the `ws` library. tsx only translates at start: it costs nothing per message. */
export const wsPeer: Peer = { name: 'ws', unavailable: () => undefined, start: (cpu) => start(cpu) };

/** The same, recording in the way that suggests itself: one `fs.write` for each message. */
export const wsRecordedPeer: Peer = {
  name: 'ws-recorded',
  unavailable: recordingsUnavailable,
  start: async (cpu) => {
    const recordings = new RecordingFolder();
    return { ...(await start(cpu, { RECORDING_DIR: recordings.path })), recordings };
  },
};

/** The same over `node:https`. */
export const wsTlsPeer: Peer = {
  name: 'ws-tls',
  unavailable: certificateUnavailable,
  start: async (cpu) => {
    const { certFile, keyFile } = benchCertificate();
    return { ...(await start(cpu, { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile })), tls: true };
  },
};
