import { type Peer, startRelay } from './peer.ts';

/** The bare C forwarder: the unit all ratios are in. `program`: its built binary. */
export function floorPeer(program: string): Peer {
  return {
    name: 'floor',
    unavailable: () => undefined,
    start: async (cpu) => ({
      ...(await startRelay(cpu, [program])),
      userPath: '/meshrelay.ashx?id=bench-{pair}&browser=1',
      devicePath: '/meshrelay.ashx?id=bench-{pair}',
    }),
  };
}
