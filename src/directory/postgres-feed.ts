import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import pg from 'pg';
import type { Clock } from '../core/clock.ts';
import { everything, type Feed, type Listeners, readChange } from './changes.ts';
import type { DirectoryChange } from './directory.ts';
import { randomToken } from './names.ts';
import { clientConfig, unavailable } from './postgres.ts';
import type { Tx } from './schema.ts';

const channel = 'couplet_directory';
const beatMs = 250;
/** Without an answer for this long nothing is answered from memory: the connection may be dead without a word. */
const currentMs = 800;
/** Beats without an answer after which the connection counts as dead. Not a time: a stalled event loop is no dead peer. */
const deadBeats = 12;
const retryMs = 200;
const maxRetryMs = 3_000;

export interface PostgresFeedOptions {
  readonly url: string;
  readonly clock: Clock;
  readonly listeners: Listeners;
  onError(error: unknown): void;
}

/**
 * [T4] Changes are notifications, sent with the transaction that makes the change. They are lost while nobody listens:
 * after a lost connection everything counts as changed.
 */
export class PostgresFeed implements Feed {
  readonly #options: PostgresFeedOptions;
  /** Tells what this process has sent itself. */
  readonly #origin = randomToken(9);
  readonly #timer: NodeJS.Timeout;
  #client: pg.Client | undefined;
  /** When the last question was sent that has been answered. */
  #aliveMs = Number.NEGATIVE_INFINITY;
  #asking = false;
  #unanswered = 0;
  #closed = false;
  #reconnecting: Promise<void> | undefined;
  readonly #stop = new AbortController();

  private constructor(options: PostgresFeedOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#beat(), beatMs).unref();
  }

  static async open(options: PostgresFeedOptions): Promise<PostgresFeed> {
    const feed = new PostgresFeed(options);
    try {
      await feed.#connect();
      return feed;
    } catch (error) {
      await feed.close();
      throw unavailable(options.url, error);
    }
  }

  async publish(tx: Tx, change: DirectoryChange): Promise<void> {
    const payload = JSON.stringify({ from: this.#origin, ...change });
    await sql`select pg_notify(${channel}, ${payload})`.execute(tx);
  }

  committed(change: DirectoryChange): void {
    this.#options.listeners.tell(change);
  }

  isCurrent(): boolean {
    return this.#client !== undefined && this.#nowMs() - this.#aliveMs <= currentMs;
  }

  /** A backend passes notifications on before it ends its answer to the question that comes behind them. */
  async catchUp(): Promise<void> {
    const client = this.#client;
    if (client !== undefined) {
      await client.query('select 1').catch((cause) => {
        throw unavailable(this.#options.url, cause);
      });
    }
    if (client !== undefined && this.#client === client) return;
    throw unavailable(this.#options.url, new Error('the connection for notifications is lost'));
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#stop.abort();
    const client = this.#client;
    this.#client = undefined;
    await client?.end();
    await this.#reconnecting;
  }

  #nowMs(): number {
    return this.#options.clock.monotonicMs();
  }

  async #connect(): Promise<void> {
    const client = new pg.Client(clientConfig(this.#options.url));
    client.on('error', (error) => this.#lost(client, error));
    client.on('end', () => this.#lost(client, new Error('the connection for notifications has ended')));
    client.on('notification', ({ payload }) => this.#notified(payload ?? ''));
    const askedMs = this.#nowMs();
    try {
      await client.connect();
      await client.query(`listen ${channel}`);
    } catch (error) {
      await client.end().catch(() => {});
      throw error;
    }
    if (this.#closed) return client.end();
    this.#client = client;
    this.#aliveMs = askedMs;
    this.#asking = false;
    this.#unanswered = 0;
  }

  #notified(payload: string): void {
    // Told when it was committed already.
    if (payload.startsWith(`{"from":"${this.#origin}"`)) return;
    this.#options.listeners.tell(readChange(payload));
  }

  #beat(): void {
    const client = this.#client;
    if (client === undefined) return;
    if (this.#asking) {
      if (++this.#unanswered < deadBeats) return;
      return this.#lost(client, new Error(`no answer on the connection for notifications, ${deadBeats} times`));
    }
    const askedMs = this.#nowMs();
    this.#asking = true;
    client.query('select 1').then(
      () => {
        if (this.#client !== client) return;
        this.#asking = false;
        this.#unanswered = 0;
        this.#aliveMs = askedMs;
      },
      (error: unknown) => this.#lost(client, error),
    );
  }

  #lost(client: pg.Client, error: unknown): void {
    if (this.#client !== client || this.#closed) return;
    this.#client = undefined;
    this.#options.onError(error);
    // Without a word to a server that may not hear it.
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    this.#reconnecting ??= this.#reconnect().finally(() => {
      this.#reconnecting = undefined;
    });
  }

  async #reconnect(): Promise<void> {
    for (let waitMs = retryMs; !this.#closed; waitMs = Math.min(2 * waitMs, maxRetryMs)) {
      try {
        await delay(waitMs, undefined, { signal: this.#stop.signal });
        await this.#connect();
        if (!this.#closed) this.#options.listeners.tell(everything);
        return;
      } catch (error) {
        if (!this.#closed) this.#options.onError(error);
      }
    }
  }
}
