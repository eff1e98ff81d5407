import type { HttpResponse } from 'uWebSockets.js';
import { STATUS_CODES } from 'node:http';
import type { HttpApiAnswer } from './api-endpoint.ts';

/** uWebSockets.js ends a response of which nothing was sent for 10 s. */
const heartbeatMs = 5_000;
const always: Readonly<Record<string, string>> = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' };
const plain = /^[\t\x20-\x7e]*$/;

/** One response being written. After its end, or when the peer is gone, nothing of it is touched any more. */
export class Answering {
  /** Called once: the response is sent, or the peer is gone. */
  onEnd: () => void = () => {};
  onAborted: () => void = () => {};
  readonly #res: HttpResponse;
  readonly #head: boolean;
  readonly #failed: (error: unknown) => void;
  readonly #abort = new AbortController();
  #over = false;
  #writable: (offset: number) => boolean = () => true;

  constructor(res: HttpResponse, head: boolean, failed: (error: unknown) => void) {
    this.#res = res;
    this.#head = head;
    this.#failed = failed;
    res.onAborted(() => {
      if (this.#over) return;
      this.onAborted();
      this.#end();
    });
  }

  /** Ends the connection. */
  close(): void {
    if (this.#over) return;
    this.#end();
    this.#res.close();
  }

  json(status: number, headers: Readonly<Record<string, string>>, text: string | undefined, close = false): void {
    if (this.#over) return;
    this.#end();
    const res = this.#res;
    res.cork(() => {
      this.#begin(status, headers, text === undefined ? undefined : 'application/json');
      // Not `undefined` for the length: uWebSockets.js takes it for a number.
      if (text === undefined) res.endWithoutBody();
      else if (this.#head) res.endWithoutBody(Buffer.byteLength(text), close);
      else res.end(text, close);
    });
  }

  /** Writes as fast as the peer reads. A source that breaks, or ends too early, breaks the connection. */
  async stream(answer: Extract<HttpApiAnswer, { kind: 'stream' }>): Promise<void> {
    if (this.#over) return;
    const { status, headers, contentType, bytes } = answer;
    if (this.#head || bytes === 0) {
      this.#end();
      this.#res.cork(() => {
        this.#begin(status, headers, contentType);
        this.#res.endWithoutBody(bytes);
      });
      return;
    }
    this.#res.onWritable((offset) => this.#writable(offset));
    this.#res.cork(() => this.#begin(status, headers, contentType));
    try {
      for await (const chunk of answer.chunks) {
        if (this.#over) return;
        if (chunk.byteLength > 0 && !(await this.#write(chunk, bytes))) return;
      }
      if (!this.#over) this.#failed(new Error('a stream ended before its time'));
    } catch (error) {
      this.#failed(error);
    }
    this.close();
  }

  /** @returns false where there is nothing more to write */
  #write(chunk: Uint8Array, total: number): Promise<boolean> {
    return new Promise((resolve) => {
      const start = this.#res.getWriteOffset();
      const attempt = (from: number): boolean => {
        const [sent, done] = this.#res.tryEnd(chunk.subarray(from), total);
        if (done) this.#end();
        if (sent || done) {
          this.#settle = () => {};
          this.#writable = () => true;
          resolve(!done);
        }
        return sent;
      };
      this.#settle = () => resolve(false);
      this.#writable = (offset) => attempt(offset - start);
      this.#res.cork(() => attempt(0));
    });
  }

  #settle: () => void = () => {};

  async events(answer: Extract<HttpApiAnswer, { kind: 'events' }>): Promise<void> {
    if (this.#over) return;
    if (this.#head) return this.json(answer.status, answer.headers, undefined);
    const { signal } = this.#abort;
    this.#res.onWritable((offset) => this.#writable(offset));
    this.#res.cork(() => {
      this.#begin(answer.status, answer.headers, 'text/event-stream');
      this.#res.write(':\n\n');
    });
    const heartbeat = setInterval(() => {
      // A peer that does not read what is there needs no sign of life.
      if (!this.#over && !this.#isFull) this.#text(':\n\n');
    }, heartbeatMs);
    try {
      for await (const text of answer.open(signal)) {
        if (this.#over) return;
        if (!this.#text(text)) await this.#drained();
      }
    } catch (error) {
      if (!signal.aborted) this.#failed(error);
    } finally {
      clearInterval(heartbeat);
      if (!this.#over) {
        this.#end();
        this.#res.cork(() => this.#res.end());
      }
    }
  }

  #isFull = false;

  #text(text: string): boolean {
    let sent = false;
    this.#res.cork(() => {
      sent = this.#res.write(text);
    });
    this.#isFull = !sent;
    return sent;
  }

  /** Settles when the peer has read what waited, or is gone. */
  #drained(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#over) return resolve();
      this.#settle = resolve;
      this.#writable = () => {
        this.#isFull = false;
        resolve();
        return true;
      };
    });
  }

  #begin(status: number, headers: Readonly<Record<string, string>>, contentType: string | undefined): void {
    const res = this.#res;
    res.writeStatus(`${status} ${STATUS_CODES[status] ?? 'Unknown'}`);
    if (contentType !== undefined) res.writeHeader('content-type', contentType);
    for (const [name, value] of Object.entries({ ...always, ...headers })) {
      // Nothing that somebody wrote can end a header (fault 34).
      if (plain.test(name) && plain.test(value)) res.writeHeader(name, value);
      else this.#failed(new Error(`the header ${JSON.stringify(name)} cannot be written`));
    }
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort.abort();
    this.#settle();
    this.onEnd();
  }
}
