import { CoupletError } from '../core/errors.ts';
import { closeCodes } from '../protocol/close-codes.ts';

/** How a client's connection ended: the close code (1006: without a close frame) and the relay's reason text. */
export interface HalfClose {
  readonly code: number;
  readonly reason: string;
  /** What broke the connection, where that is known. */
  readonly cause?: Error | undefined;
}

type Code = `CPL_${string}`;

/** R27 as a client tells it: stable code and sentence for each close code that is not a clean end. */
const closings: ReadonlyMap<number, readonly [Code, string]> = new Map([
  [closeCodes.goingAway, ['CPL_CLIENT_GOING_AWAY', 'the relay is shutting down']],
  [closeCodes.protocolError, ['CPL_CLIENT_PROTOCOL', 'the relay saw a protocol error']],
  [1006, ['CPL_CLIENT_BROKEN', 'the connection to the relay broke']],
  [closeCodes.tooBig, ['CPL_CLIENT_TOO_BIG', 'a message was larger than is allowed']],
  [closeCodes.expired, ['CPL_CLIENT_EXPIRED', 'the cookie expired']],
  [closeCodes.denied, ['CPL_CLIENT_DENIED', 'the relay did not allow this session']],
  [closeCodes.deviceOffline, ['CPL_CLIENT_DEVICE_OFFLINE', 'the device is offline']],
  [closeCodes.noPeer, ['CPL_CLIENT_NO_PEER', 'no mate came with the same session id in time']],
  [closeCodes.duplicate, ['CPL_CLIENT_DUPLICATE', 'the session id is already in use']],
  [closeCodes.revoked, ['CPL_CLIENT_REVOKED', 'the right to this session was withdrawn']],
  [closeCodes.limit, ['CPL_CLIENT_LIMIT', "one of the relay's limits was reached"]],
  [closeCodes.recordingFailed, ['CPL_CLIENT_RECORDING_FAILED', 'the session could not be recorded']],
  [closeCodes.peerError, ['CPL_CLIENT_PEER_ERROR', "the mate's connection broke"]],
  [closeCodes.slow, ['CPL_CLIENT_SLOW', 'a half did not take its data in time']],
  [closeCodes.idle, ['CPL_CLIENT_IDLE', 'no message came for too long']],
]);

/** True where a close code says that the other end left in good order (1005: a close frame without a code). */
export function isCleanClose(code: number): boolean {
  return code === closeCodes.normal || code === 1005;
}

/** The error for a connection that ended with this close code; one line, with the relay's reason where it gave one. */
export function closeError(close: HalfClose): CoupletError {
  const [code, sentence] = closings.get(close.code) ?? (['CPL_CLIENT_CLOSED', 'the relay ended the session'] as const);
  const detail = printableLine(close.reason || causeWord(close.cause));
  return new CoupletError(code, `${sentence} (close code ${close.code}${detail && `, ${detail}`})`, {
    closeCode: close.code,
    ...(close.cause && { cause: close.cause }),
  });
}

const refusals: ReadonlyMap<number, readonly [Code, string]> = new Map([
  [400, ['CPL_CLIENT_BAD_REQUEST', 'it found the request malformed; check --id and --url']],
  [401, ['CPL_CLIENT_UNAUTHORIZED', 'the cookie is not valid here; check the cookie or login key, user and domain']],
  [403, ['CPL_CLIENT_FORBIDDEN', 'it does not allow this origin']],
  [404, ['CPL_CLIENT_NOT_FOUND', 'it knows no such path or domain; the path is /relay or /DOMAIN/meshrelay.ashx']],
  [429, ['CPL_CLIENT_TOO_MANY', 'too many requests or waiting halves from this address; try again later']],
  [503, ['CPL_CLIENT_UNAVAILABLE', 'it takes no new halves at the moment; try again later']],
]);

/** The error for an upgrade request that got an HTTP answer instead of a WebSocket. `where` holds no query. */
export function refusedError(where: string, httpStatus: number): CoupletError {
  const [code, sentence] = refusals.get(httpStatus) ?? (['CPL_CLIENT_REFUSED', 'it is not a relay endpoint'] as const);
  return new CoupletError(code, `${where} answered HTTP ${httpStatus}: ${sentence}`, { httpStatus });
}

/** The error for a connection that did not come about at all: name, network, TLS, or no answer in time. */
export function connectError(where: string, cause: unknown): CoupletError {
  const word = causeWord(cause);
  const hint = /CERT|SELF_SIGNED|ISSUER/.test(word) ? '; name its authority with --ca FILE' : '';
  return new CoupletError('CPL_CLIENT_CONNECT', `cannot connect to ${where}: ${printableLine(word)}${hint}`, { cause });
}

/** Text from outside, made fit for one line of a terminal: no control or non-ASCII characters, at most 200 of them. */
export function printableLine(text: string): string {
  return text.replace(/[^\x20-\x7e]+/g, ' ').slice(0, 200);
}

/** The system's short word (`ECONNREFUSED`) where there is one; several addresses tried give an empty message. */
function causeWord(cause: unknown): string {
  if (!(cause instanceof Error)) return cause === undefined ? '' : String(cause);
  const { code } = cause as NodeJS.ErrnoException;
  return code ?? cause.message;
}
