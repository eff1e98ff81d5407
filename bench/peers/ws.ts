import { fileURLToPath } from 'node:url';
import { type Peer, type RunningPeer, startRelay } from './peer.ts';
import { RecordingFolder, recordingsUnavailable } from './recordings.ts';

const program = fileURLToPath(new URL('./ws-relay.ts', import.meta.url));

async function start(cpu: number | undefined, recordings?: RecordingFolder): Promise<RunningPeer> {
  const environment = recordings === undefined ? {} : { RECORDING_DIR: recordings.path };
  return {
    ...(await startRelay(cpu, [process.execPath, '--import', 'tsx', program], environment)),
    userPath: '/meshrelay.ashx?id=bench-{pair}&browser=1',
    devicePath: '/meshrelay.ashx?id=bench-{pair}',
    ...(recordings !== undefined && { recordings }),
  };
}

/** The smallest correct relay on the `ws` library. tsx only translates at start: it costs nothing per message. */
export const wsPeer: Peer = { name: 'ws', unavailable: () => undefined, start };

/** The same, recording in the way that suggests itself: one `fs.write` for each message. */
export const wsRecordedPeer: Peer = {
  name: 'ws-recorded',
  unavailable: recordingsUnavailable,
  start: (cpu) => start(cpu, new RecordingFolder()),
};
