import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { type LinkSeal, newChallenge } from '../../src/cluster/link-seal.ts';
import { LinkTickets } from '../../src/cluster/link-tickets.ts';
import type { ServerEntry } from '../../src/cluster/servers.ts';
import { systemClock } from '../../src/core/clock.ts';
import { beatText, proofHeader } from '../../src/protocol/link-messages.ts';

/** Another server's end of channels, which says only what the test lets it say. */
export class ChannelStub {
  readonly boot = newChallenge();
  readonly tickets: LinkTickets;
  /** Taken channels, those that ended too. */
  readonly channels: WebSocket[] = [];
  /** What came but beats and proofs. */
  readonly heard: string[] = [];
  beats = 0;
  onBeat: () => void = () => undefined;
  /** Makes another proof out of the right one. */
  spoil: (proof: string) => string = (proof) => proof;
  /** Refuses from now on: with 401, or by closing a channel that was opened. */
  refuses: 'no' | 'at-once' | 'after-proof' = 'no';
  #server!: WebSocketServer;

  constructor(seal: LinkSeal) {
    this.tickets = new LinkTickets({ seal, boot: this.boot, clock: systemClock });
  }

  async listen(t: TestContext): Promise<void> {
    this.#server = new WebSocketServer({
      port: 0,
      host: '127.0.0.1',
      verifyClient: () => this.refuses !== 'at-once',
    });
    t.after(() => this.close());
    const nexts = new WeakMap<object, string>();
    this.#server.on('headers', (headers, request) => {
      const { from, challenge } = this.#dialler(request);
      const answer = this.tickets.answerChannel(from, challenge);
      nexts.set(request, answer.next);
      headers.push(`${proofHeader}: ${this.spoil(answer.proof)}`);
    });
    this.#server.on('connection', (ws, request) => {
      const { from } = this.#dialler(request);
      let isProven = false;
      ws.on('error', () => undefined);
      ws.on('message', (data) => {
        const text = String(data);
        if (!isProven) {
          isProven = this.tickets.isChannelProof(text, from, nexts.get(request) ?? '');
          if (!isProven || this.refuses === 'after-proof') return ws.close(4403);
          this.channels.push(ws);
          ws.send(beatText);
        } else if (text === beatText) {
          this.beats++;
          this.onBeat();
        } else this.heard.push(text);
      });
    });
    await once(this.#server, 'listening');
  }

  /** Who dials: also who does so with another key, or another server's boot id, is answered. */
  #dialler({ url = '' }: { url?: string | undefined }): { from: string; challenge: string } {
    const hello = new URL(url, 'ws://stub').searchParams.get('hello') ?? '';
    return this.tickets.heard(hello) ?? { from: '', challenge: '' };
  }

  get entry(): ServerEntry {
    const { port } = this.#server.address() as AddressInfo;
    const linkUrl = `ws://127.0.0.1:${port}`;
    return { boot: this.boot, linkUrl, fingerprint: '', directory: 'none', startedMs: 0, version: 'test' };
  }

  /** Dials a server's channel as this stub. */
  async dial(t: TestContext, to: ServerEntry): Promise<WebSocket> {
    const challenge = newChallenge();
    const ws = new WebSocket(`${to.linkUrl}/channel?hello=${this.tickets.hello(to.boot, challenge)}`);
    t.after(() => ws.terminate());
    ws.on('error', () => undefined);
    let proof = '';
    ws.on('upgrade', (response) => {
      proof = this.tickets.proveChannel(String(response.headers[proofHeader]), to.boot, challenge) ?? '';
    });
    await once(ws, 'open');
    ws.send(proof);
    await once(ws, 'message');
    return ws;
  }

  close(): void {
    for (const ws of this.#server.clients) ws.terminate();
    this.#server.close();
  }
}
