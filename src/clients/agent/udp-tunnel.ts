import { createSocket, type Socket } from 'node:dgram';
import { CoupletError } from '../../core/errors.ts';
import { isGreeting, parseControlText } from '../../protocol/control-messages.ts';
import { closeError, isCleanClose, printableLine } from '../client-errors.ts';
import type { ClientHalf } from '../connect.ts';
import { deferred, within } from '../waiting.ts';
import type { TargetAddress } from './targets.ts';

/** Datagrams that find more than this waiting for the network are dropped, as any router would. Bytes. */
const maxBufferedBytes = 1024 * 1024;
const closeWaitMs = 2000;

export interface UdpTunnelOptions {
  readonly target: TargetAddress;
  readonly port: number;
  /** Without a datagram either way for this long the tunnel ends. */
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

/**
 * [T11] Connects a half to a UDP target: one datagram is one binary message. Ends when the mate leaves, or after
 * `idleMs`. A target that refuses datagrams (ICMP) is told as `error: …`.
 * @throws CoupletError (as rejection) `CPL_AGENT_DIAL`, or by close code
 */
export async function serveUdp(half: ClientHalf, options: UdpTunnelOptions): Promise<void> {
  const { target, port, signal } = options;
  const socket = createSocket(target.family === 6 ? 'udp6' : 'udp4');
  const ended = deferred<CoupletError | undefined>();
  const idle = setTimeout(() => ended.resolve(undefined), options.idleMs);
  const onAbort = () => ended.resolve(undefined);
  signal.addEventListener('abort', onAbort, { once: true });
  socket.on('error', (cause) => {
    const why = (cause as NodeJS.ErrnoException).code ?? printableLine(cause.message);
    const text = `${target.address} port ${port} refuses datagrams: ${why}`;
    ended.resolve(new CoupletError('CPL_AGENT_DIAL', text, { cause }));
  });
  void half.closed.then((close) => ended.resolve(isCleanClose(close.code) ? undefined : closeError(close)));
  socket.on('message', (data) => {
    idle.refresh();
    // What it becomes of it shows in the half's close.
    if (half.bufferedBytes <= maxBufferedBytes) void half.sendBinary(data);
  });
  let greeted = false;
  let isOpen = true;
  // The port is bound to this one peer: nobody else's datagrams come through.
  socket.connect(port, target.address, (cause?: unknown) => {
    if (!isOpen) return;
    if (cause instanceof Error) {
      socket.emit('error', cause);
      return;
    }
    half.start({
      onText: (text) => {
        if (!greeted && isGreeting(text)) greeted = true;
        else if (parseControlText(text) === undefined) ended.resolve(textError(text));
      },
      onBinary: (data) => {
        if (!isOpen) return;
        idle.refresh();
        sendDatagram(socket, data, (error) => ended.resolve(error));
      },
    });
  });
  const error = await ended.promise;
  isOpen = false;
  signal.removeEventListener('abort', onAbort);
  clearTimeout(idle);
  socket.close();
  half.resume();
  if (error?.code === 'CPL_AGENT_DIAL') await within(half.sendText(`error: ${error.message}`), closeWaitMs);
  half.close();
  await within(half.closed, closeWaitMs);
  half.terminate();
  if (error !== undefined) throw error;
}

/** A message too large for a datagram is dropped like one too large for a link on its way; refusal is an error. */
function sendDatagram(socket: Socket, data: Buffer, fail: (error: CoupletError) => void): void {
  socket.send(data, (cause) => {
    const code = (cause as NodeJS.ErrnoException | null)?.code;
    if (!cause || code === 'EMSGSIZE' || code === 'ENOBUFS' || code === 'EAGAIN') return;
    fail(new CoupletError('CPL_AGENT_DIAL', `cannot send a datagram: ${code}`, { cause }));
  });
}

function textError(text: string): CoupletError {
  return new CoupletError('CPL_CLIENT_PROTOCOL', `protocol error: the mate sent a text: ${printableLine(text)}`);
}
