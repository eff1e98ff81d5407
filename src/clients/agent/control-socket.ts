import WebSocket from 'ws';
import { CoupletError } from '../../core/errors.ts';
import {
  type AgentMessage,
  agentPath,
  maxAgentMessageBytes,
  readServerMessage,
  type ServerMessage,
  writeMessage,
} from '../../protocol/agent-messages.ts';
import { closeCodes } from '../../protocol/close-codes.ts';
import { closeError, connectError, refusedError } from '../client-errors.ts';

/** How to reach a server. */
export interface ServerOptions {
  /** `ws://`, `wss://`, `http://` or `https://` URL of the server, with or without `/agent`. */
  readonly url: string;
  /** PEM text of the authorities that may have signed the server's certificate, instead of the built-in ones. */
  readonly ca?: string;
  /** Takes any certificate: for tests. */
  readonly insecure?: boolean;
}

const handshakeTimeoutMs = 15_000;

/**
 * The URL of the server itself, without `/agent`: what `*` in a tunnel command stands for.
 * @throws CoupletError `CPL_CLIENT_URL`
 */
export function serverUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const scheme = /^(?:ws|http)(s?):$/.exec(url?.protocol ?? '');
  if (url === undefined || scheme === null || url.search !== '' || url.username !== '') {
    throw new CoupletError('CPL_CLIENT_URL', 'the server URL must read wss://HOST, ws://HOST:PORT or https://HOST');
  }
  const path = url.pathname.replace(/\/+$/, '');
  return new URL(`ws${scheme[1]}://${url.host}${path.endsWith(agentPath) ? path.slice(0, -agentPath.length) : path}`);
}

/** Where there is no such path, there will be none later. */
function agentRefusedError(where: string, httpStatus: number): CoupletError {
  if (httpStatus !== 404) return refusedError(where, httpStatus);
  const text = `${where} answered HTTP 404: no agents are taken there; is it a relay with a directory, and the URL right?`;
  return new CoupletError('CPL_AGENT_NOT_TAKEN', text, { httpStatus });
}

/** One connection of the control channel: messages in, messages out, one end. */
export class ControlSocket {
  /** Rejects with the reason when the connection is over, settles never otherwise. */
  readonly ended: Promise<never>;
  /** Takes the next message and those after it; set before the event loop turns. */
  onMessage: (message: ServerMessage) => void = () => undefined;
  readonly #socket: WebSocket;
  #end!: (error: unknown) => void;

  /** Begins to connect. */
  constructor(options: ServerOptions) {
    const base = serverUrl(options.url);
    const where = `${base.protocol}//${base.host}${base.pathname.replace(/\/$/, '')}${agentPath}`;
    this.ended = new Promise((_resolve, reject) => {
      this.#end = reject;
    });
    this.ended.catch(() => undefined); // whoever waits hears it; nobody need wait
    const socket = new WebSocket(where, {
      handshakeTimeout: handshakeTimeoutMs,
      perMessageDeflate: false,
      maxPayload: maxAgentMessageBytes,
      rejectUnauthorized: options.insecure !== true,
      ...(options.ca !== undefined && { ca: options.ca }),
    });
    this.#socket = socket;
    let isOpen = false;
    let cause: Error | undefined;
    socket.on('open', () => {
      isOpen = true;
    });
    socket.on('error', (error) => {
      cause ??= error;
      if (!isOpen) this.#end(connectError(where, error));
    });
    socket.on('unexpected-response', (_request, response) => {
      this.#end(agentRefusedError(where, response.statusCode ?? 0));
      socket.terminate();
    });
    socket.on('close', (code, reason) => this.#end(closeError({ code, reason: reason.toString(), cause })));
    socket.on('message', (data, isBinary) => {
      if (isBinary) this.#protocolError('a binary message');
      else this.#read((data as Buffer).toString());
    });
  }

  #read(text: string): void {
    const result = readServerMessage(text);
    if (result.ok) this.onMessage(result.message);
    else if (result.fault !== 'unknown-type') this.#protocolError(result.detail);
  }

  #protocolError(detail: string): void {
    this.fail(new CoupletError('CPL_AGENT_PROTOCOL', `the server broke the control channel's protocol: ${detail}`));
    this.#socket.close(closeCodes.protocolError);
  }

  /** False where the connection is not open: it says so by `ended`. A message in flight may still be lost. */
  send(message: AgentMessage): boolean {
    const isOpen = this.#socket.readyState === WebSocket.OPEN;
    if (isOpen) this.#socket.send(writeMessage(message));
    return isOpen;
  }

  /** Ends the connection for this reason. */
  fail(reason: unknown): void {
    this.#end(reason);
  }

  /** Leaves in good order; the TCP connection ends at the latest after `ms`. */
  async close(ms = 500): Promise<void> {
    const socket = this.#socket;
    if (socket.readyState === WebSocket.CLOSED) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => socket.terminate(), ms);
      socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      if (socket.readyState === WebSocket.CONNECTING) socket.terminate();
      else socket.close(closeCodes.normal);
    });
  }
}
