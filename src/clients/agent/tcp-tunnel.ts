import { connect } from 'node:net';
import { CoupletError } from '../../core/errors.ts';
import { abandonSocket } from '../abandon-socket.ts';
import { runByteSession } from '../byte-session.ts';
import { printableLine } from '../client-errors.ts';
import type { ClientHalf } from '../connect.ts';
import { deferred } from '../waiting.ts';
import { lookupOf, type TargetAddress } from './targets.ts';

/** Of several addresses each but the last gets this long to answer. */
const attemptMs = 2500;

export interface TcpTunnelOptions {
  /** Already found allowed. */
  readonly addresses: readonly TargetAddress[];
  readonly port: number;
  /** For all addresses together. */
  readonly dialTimeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * [T11] Connects a half to a TCP target: bytes as binary messages, both directions with back-pressure and an end of
 * their own. A target that cannot be reached is told as `error: …` to any mate, one that breaks off to a Couplet mate;
 * the target in turn sees a reset, not an end, where the mate broke off.
 * @throws CoupletError (as rejection) `CPL_AGENT_DIAL`; as {@link runByteSession}
 */
export async function serveTcp(half: ClientHalf, options: TcpTunnelOptions): Promise<void> {
  const { addresses, port, signal } = options;
  const where = `${addresses[0]?.address} port ${port}`;
  const socket = connect({
    host: 'target', // never looked up: `lookup` answers
    port,
    lookup: lookupOf(addresses),
    allowHalfOpen: true,
    noDelay: true,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: attemptMs,
  });
  const connected = deferred<void>();
  let isConnected = false;
  let dialError: CoupletError | undefined;
  const late = setTimeout(() => socket.destroy(new Error('ETIMEDOUT')), options.dialTimeoutMs);
  socket.once('connect', () => {
    isConnected = true;
    clearTimeout(late);
    connected.resolve();
  });
  socket.once('error', (cause) => {
    if (!isConnected)
      dialError = new CoupletError('CPL_AGENT_DIAL', `cannot connect to ${where}: ${word(cause)}`, { cause });
  });
  try {
    await runByteSession(half, {
      input: socket,
      output: socket,
      signal,
      connected: connected.promise,
      onFailure: (error, mateIsCouplet) => {
        if (dialError !== undefined) return `error: ${dialError.message}`;
        abandonSocket(socket, error, mateIsCouplet);
        const brokeOff = error instanceof CoupletError && targetCodes.has(error.code);
        return brokeOff && mateIsCouplet ? `error: the connection to ${where} broke` : undefined;
      },
    });
  } catch (error) {
    throw dialError ?? error;
  } finally {
    clearTimeout(late);
  }
}

const targetCodes = new Set(['CPL_CLIENT_INPUT', 'CPL_CLIENT_OUTPUT', 'CPL_CLIENT_OUTPUT_CLOSED']);

function word(cause: Error): string {
  return (cause as NodeJS.ErrnoException).code ?? printableLine(cause.message);
}
