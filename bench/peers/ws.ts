import { fileURLToPath } from 'node:url';
import { type Peer, startRelay } from './peer.ts';

const program = fileURLToPath(new URL('./ws-relay.ts', import.meta.url));

/** The smallest correct relay on the `ws` library. tsx only translates at start: it costs nothing per message. */
export const wsPeer: Peer = {
  name: 'ws',
  unavailable: () => undefined,
  start: async (cpu) => ({
    ...(await startRelay(cpu, [process.execPath, '--import', 'tsx', program])),
    userPath: '/meshrelay.ashx?id=bench-{pair}&browser=1',
    devicePath: '/meshrelay.ashx?id=bench-{pair}',
  }),
};
