import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type Server } from 'node:http';
import { createServer, type Socket, type Server as TcpServer } from 'node:net';
import type { TestContext } from 'node:test';
import { WebSocketServer } from 'ws';

const signature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');

/** What came to a {@link ProxiedServer}: a request, the address that its PROXY header told, and how. */
export interface Arrived {
  readonly url: string;
  /** Empty for LOCAL, which is what a health check says. */
  readonly address: string;
  readonly headers: IncomingMessage['headers'];
}

/**
 * A stand-in for a server behind a proxy: takes nothing but connections that begin with a PROXY protocol v2 header,
 * answers each request with its own name, and each WebSocket with its name and then with what it was sent.
 */
export class ProxiedServer {
  readonly name: string;
  readonly arrived: Arrived[] = [];
  /** Connections that began with something else. */
  strangers = 0;
  /** While true `/readyz` and everything new is answered with 503, as a server does that drains. */
  isDraining = false;
  readonly #http: Server;
  readonly #tcp: TcpServer;
  readonly #addresses = new WeakMap<Socket, string>();
  readonly #sockets = new Set<Socket>();
  port = 0;

  constructor(name: string) {
    this.name = name;
    this.#http = createHttpServer((request, response) => {
      this.#note(request);
      response.statusCode = this.isDraining ? 503 : 200;
      response.end(this.name);
    });
    const sockets = new WebSocketServer({ noServer: true });
    this.#http.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      this.#note(request);
      if (this.isDraining) {
        socket.end('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
        return;
      }
      sockets.handleUpgrade(request, socket, head, (ws) => {
        ws.send(this.name);
        ws.on('message', (data: Buffer, isBinary) => ws.send(data, { binary: isBinary }));
      });
    });
    this.#tcp = createServer((socket) => this.#receive(socket));
  }

  static async start(t: TestContext, name: string): Promise<ProxiedServer> {
    const server = new ProxiedServer(name);
    await server.listen(0);
    t.after(() => server.stop());
    return server;
  }

  async listen(port: number): Promise<void> {
    this.#tcp.listen(port, '127.0.0.1');
    await once(this.#tcp, 'listening');
    this.port = (this.#tcp.address() as { port: number }).port;
  }

  /** As a crash: the port is closed and every connection is cut. */
  async stop(): Promise<void> {
    if (!this.#tcp.listening) return;
    this.#tcp.close();
    for (const socket of this.#sockets) socket.destroy();
    await once(this.#tcp, 'close');
  }

  #note(request: IncomingMessage): void {
    const address = this.#addresses.get(request.socket) ?? '';
    this.arrived.push({ url: request.url ?? '', address, headers: request.headers });
  }

  #receive(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    let bytes = Buffer.alloc(0);
    const read = (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (!bytes.subarray(0, 12).equals(signature.subarray(0, bytes.length))) {
        this.strangers++;
        socket.destroy();
        return;
      }
      if (bytes.length < 16 || bytes.length < 16 + bytes.readUInt16BE(14)) return;
      socket.off('data', read);
      socket.pause();
      this.#addresses.set(socket, sourceOf(bytes));
      const rest = bytes.subarray(16 + bytes.readUInt16BE(14));
      if (rest.length > 0) socket.unshift(rest);
      this.#http.emit('connection', socket);
      socket.resume();
    };
    socket.on('data', read);
  }
}

/** The source address in a complete PROXY v2 header; empty for LOCAL and what is not TCP over IPv4. */
function sourceOf(header: Buffer): string {
  const isProxy = header[12] === 0x21;
  return isProxy && header[13] === 0x11 ? [...header.subarray(16, 20)].join('.') : '';
}
