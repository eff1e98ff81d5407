import type { EventRecord } from '../audit/sink.ts';
import type { RedisTarget } from '../config/redis-url.ts';
import { within } from './deadline.ts';
import { type EventStreamOptions, streamKeyOf } from './event-stream.ts';
import { RedisScript } from './redis.ts';
import { openDriver, type RedisDriver } from './redis-driver.ts';

/** An event of another server. */
export interface StreamEvent {
  /** Boot id of the server that it is from. */
  readonly boot: string;
  readonly event: EventRecord;
  /** The same on one line. */
  readonly json: string;
}

export type StreamListener = (event: StreamEvent) => void;

export interface EventStreamReaderOptions extends EventStreamOptions {
  readonly target: RedisTarget;
  /** `cluster.commandMs`. */
  readonly commandMs: number;
  /**
   * Events of other servers were missed: trimmed before they were read (then it is known how many, those of this server
   * among them), or lost with Redis's data.
   */
  readonly onGap: (lost?: number) => void;
  /** An entry that this login key does not open, or a failure to read; one line. Told once until reading works again. */
  readonly onProblem: (text: string) => void;
}

/*
 * Entries behind ARGV[1], and what is needed to count the missing: how many entries the stream was ever given, how many
 * it has, its last id, and whether the entry ARGV[1] is there. In one script, for between two commands it may be trimmed.
 */
const readScript = new RedisScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0, '0-0', 0, {}} end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local of = {}
for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
local last = ARGV[1]
if last == '$' then return {of['entries-added'], of['length'], of['last-generated-id'], 1, {}} end
local found = last == '0-0' and 1 or #redis.call('XRANGE', KEYS[1], last, last)
local entries = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', ARGV[2])
return {of['entries-added'], of['length'], of['last-generated-id'], found, entries}
`);

type Entry = readonly [id: string, fields: readonly string[]];
type ReadReply = readonly [added: number, length: number, lastId: string, found: number, entries: readonly Entry[]];

const batchSize = 256;
const blockMs = 5000;
const minPauseMs = 50;
const maxPauseMs = 1000;

/** [K5] Reads the events of the other servers, over a connection of its own that is open while somebody listens. */
export class EventStreamReader {
  readonly #options: EventStreamReaderOptions;
  readonly #key: string;
  readonly #listeners = new Set<StreamListener>();
  readonly #stopListening: () => void;
  #driver: RedisDriver | undefined;
  #running: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #closed = false;
  /** Id of the last entry read; `undefined` until the stream's end was found. */
  #lastId: string | undefined;
  /** How many entries the stream had been given up to that one, where that is known. */
  #position: number | undefined;
  #problemTold = false;

  constructor(options: EventStreamReaderOptions) {
    this.#options = options;
    this.#key = streamKeyOf(options.prefix);
    // Blocked reading on a connection that hangs would notice seconds later.
    this.#stopListening = options.redis.onChange(() => {
      if (options.redis.isUp) this.#wake?.();
      else this.#breakOff();
    });
  }

  /** True while it has a place in the stream: what is written from then on is handed over, or reported as a gap. */
  get isReading(): boolean {
    return this.#lastId !== undefined;
  }

  /** Hands over each event of the others from now on. A listener must not throw. Gives the function that ends it. */
  subscribe(listener: StreamListener): () => void {
    // An own function: the same listener may be given twice.
    const own: StreamListener = (event) => listener(event);
    this.#listeners.add(own);
    this.#start();
    return () => {
      this.#listeners.delete(own);
      if (this.#listeners.size === 0) this.#breakOff();
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#listeners.clear();
    this.#stopListening();
    this.#breakOff();
    await this.#running;
  }

  #start(): void {
    if (this.#closed || this.#running !== undefined) return;
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
      // Somebody came while it was ending.
      if (this.#listeners.size > 0) this.#start();
    });
  }

  #breakOff(): void {
    this.#driver?.close();
    this.#driver = undefined;
    this.#wake?.();
  }

  async #run(): Promise<void> {
    this.#lastId = undefined;
    this.#position = undefined;
    let pauseMs = minPauseMs;
    while (this.#listeners.size > 0) {
      try {
        await this.#read(() => {
          pauseMs = minPauseMs;
        });
      } catch (error) {
        if (this.#listeners.size > 0 && this.#options.redis.isUp) this.#tellProblem((error as Error).message);
      }
      this.#breakOff();
      if (this.#listeners.size === 0) break;
      await this.#pause(pauseMs * (0.5 + Math.random() / 2));
      pauseMs = Math.min(maxPauseMs, pauseMs * 2);
    }
    this.#lastId = undefined;
  }

  #pause(pauseMs: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(end, pauseMs);
      this.#wake = end;
    });
  }

  /** Reads over one connection until it breaks or nobody listens. */
  async #read(onSuccess: () => void): Promise<void> {
    const { target, commandMs } = this.#options;
    const driver = await openDriver({ target, withinMs: commandMs, onLost: () => this.#breakOff() });
    if (this.#listeners.size === 0) return driver.close();
    this.#driver = driver;
    while (this.#driver === driver) {
      const isMore = this.#take(await this.#ask(driver));
      onSuccess();
      if (isMore) continue;
      const parts = ['XREAD', 'COUNT', '1', 'BLOCK', String(blockMs), 'STREAMS', this.#key, this.#lastId!];
      // It only wakes: what there is, is read by the script.
      await within(driver.send(this.#key, parts), blockMs + commandMs, 'waiting for events in the Redis stream');
    }
  }

  async #ask(driver: RedisDriver): Promise<ReadReply> {
    const args = ['1', this.#key, this.#lastId ?? '$', String(batchSize)];
    const send = (parts: readonly string[]) =>
      within(driver.send(this.#key, parts), this.#options.commandMs, 'reading the Redis stream');
    try {
      return (await send(['EVALSHA', readScript.sha1, ...args])) as ReadReply;
    } catch (error) {
      if (!(error as Error).message.startsWith('NOSCRIPT')) throw error;
      return (await send(['EVAL', readScript.text, ...args])) as ReadReply;
    }
  }

  /** Hands over what was read; true where there may be more. */
  #take([added, length, streamEnd, found, entries]: ReadReply): boolean {
    if (this.#lastId === undefined) {
      this.#lastId = streamEnd;
      this.#position = added;
      return false;
    }
    const trimmed = added - length;
    const isShorter = compareIds(streamEnd, this.#lastId) < 0;
    const isAnother = this.#position !== undefined && this.#position > trimmed && found === 0;
    if (isShorter) {
      // Redis lost the end that was read, or all. What it has now stands behind no id that we know: read on from its end.
      this.#options.onGap();
      this.#lastId = streamEnd;
      this.#position = added;
      return false;
    }
    if (isAnother) {
      this.#options.onGap();
      this.#position = undefined;
    } else if (this.#position !== undefined && trimmed > this.#position) {
      this.#options.onGap(trimmed - this.#position);
      this.#position = trimmed;
    }
    const isFull = entries.length >= batchSize;
    if (!isFull) this.#position = added;
    else if (this.#position !== undefined) this.#position += entries.length;
    if (entries.length > 0) this.#lastId = entries.at(-1)![0];
    let isReadable = true;
    for (const [, fields] of entries) isReadable = this.#hand(fields) && isReadable;
    if (isReadable) this.#problemTold = false;
    return isFull;
  }

  #hand(fields: readonly string[]): boolean {
    const { boot: own, sealer } = this.#options;
    const value = (name: string) => fields[fields.findIndex((field, i) => i % 2 === 0 && field === name) + 1] ?? '';
    const boot = value('boot');
    if (boot === own) return true;
    const json = sealer.open(this.#key, value('json'));
    if (json === undefined) {
      this.#tellProblem(`an event in ${this.#key} does not open: another login key`);
      return false;
    }
    const event = JSON.parse(json) as EventRecord;
    for (const listener of [...this.#listeners]) listener({ boot, event, json });
    return true;
  }

  #tellProblem(text: string): void {
    if (this.#problemTold) return;
    this.#problemTold = true;
    this.#options.onProblem(`event stream: ${text}`);
  }
}

/** Stream ids are `MS-COUNT`, both of up to 64 bits. */
function compareIds(a: string, b: string): number {
  const [aMs = '0', aCount = '0'] = a.split('-');
  const [bMs = '0', bCount = '0'] = b.split('-');
  const difference = BigInt(aMs) - BigInt(bMs) || BigInt(aCount) - BigInt(bCount);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}
