import { CoupletError } from '../core/errors.ts';

/** One local port and where it leads. */
export interface ForwardSpec {
  readonly bindAddress: string;
  /** 0: a free one. */
  readonly localPort: number;
  readonly host: string;
  readonly port: number;
}

const host = String.raw`(?:\[([^\]\s]+)\]|([^:[\]\s]+))`;
const target = new RegExp(`^${host}:(\\d{1,5})$`);
const spec = new RegExp(`^(?:${host}:)?(\\d{1,5}):${host}:(\\d{1,5})$`);

/** `HOST:PORT`, IPv6 in brackets. @throws CoupletError `CPL_CLIENT_OPTIONS` */
export function parseTarget(text: string): { host: string; port: number } {
  const match = target.exec(text);
  const port = Number(match?.[3]);
  const name = match?.[1] ?? match?.[2];
  if (name === undefined || !isTargetPort(port)) throw badSpec(text, 'HOST:PORT or [IPV6]:PORT');
  return { host: name, port };
}

/** `[BIND:]LOCALPORT:HOST:PORT`, IPv6 in brackets; bound to loopback. @throws CoupletError `CPL_CLIENT_OPTIONS` */
export function parseForward(text: string): ForwardSpec {
  const match = spec.exec(text);
  const localPort = Number(match?.[3]);
  const port = Number(match?.[6]);
  const name = match?.[4] ?? match?.[5];
  if (name === undefined || localPort > 65_535 || !isTargetPort(port)) {
    throw badSpec(text, 'LOCALPORT:HOST:PORT or ADDRESS:LOCALPORT:HOST:PORT (LOCALPORT 0: a free one)');
  }
  return { bindAddress: match?.[1] ?? match?.[2] ?? '127.0.0.1', localPort, host: name, port };
}

function isTargetPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}

function badSpec(text: string, allowed: string): CoupletError {
  return new CoupletError('CPL_CLIENT_OPTIONS', `${JSON.stringify(text)} is no forward; it must read ${allowed}`);
}
