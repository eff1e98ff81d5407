import type { Socket } from 'node:net';
import { CoupletError } from '../core/errors.ts';

/** Data that a mate left behind gets this long to reach a peer that does not take it. */
const lingerMs = 30_000;

/**
 * Ends the TCP connection of a session that failed. Its peer sees a reset, for it must not take a break for an end of
 * data. Except where a mate that is no Couplet client left: leaving is all it can say, so its data is complete, and is
 * still delivered.
 */
export function abandonSocket(socket: Socket, error: unknown, mateIsCouplet: boolean): void {
  const mateLeft = error instanceof CoupletError && error.code === 'CPL_CLIENT_INPUT_CUT';
  if (mateLeft && !mateIsCouplet) {
    socket.setTimeout(lingerMs, () => socket.destroy());
    socket.destroySoon();
  } else if (socket.connecting) {
    socket.destroy();
  } else {
    socket.resetAndDestroy();
  }
}
