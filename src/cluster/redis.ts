import { createHash } from 'node:crypto';
import { type RedisTarget, targetText } from '../config/redis-url.ts';
import type { Clock } from '../core/clock.ts';
import { CoupletError } from '../core/errors.ts';
import { DeadlineError, within } from './deadline.ts';
import { openDriver, type RedisDriver } from './redis-driver.ts';

/** [K6] How Redis is, for those who must write again what it may have lost. */
export interface RedisState {
  readonly isUp: boolean;
  /**
   * Rises whenever Redis may have lost what was written: a connection made anew, failover, restart, topology change, a
   * beat that came later than `cluster.heartbeatMs`. Starts at 0.
   */
  readonly epoch: number;
  /** Monotonic ms at which the last successful heartbeat began: this server's entry lives `cluster.heartbeatMs` from then at least. */
  readonly beatMs: number;
  /** `isUp` or `epoch` changed. Gives the function that ends it. */
  onChange(listener: () => void): () => void;
}

/** What commands can be sent through: Redis while it is up, or one heartbeat of it. */
export interface RedisCommands {
  /** Sends a command to the server that has `key`. */
  command(key: string, args: readonly string[]): Promise<unknown>;
  /** Runs a Lua script over one key. */
  script(script: RedisScript, key: string, args: readonly string[]): Promise<unknown>;
}

/** A Lua script and the digest by which Redis knows it. */
export class RedisScript {
  readonly text: string;
  readonly sha1: string;

  constructor(text: string) {
    this.text = text;
    this.sha1 = createHash('sha1').update(text).digest('hex');
  }
}

/** What each heartbeat does besides looking after the connection; Redis is up only once it has succeeded. */
export type BeatTask = (redis: RedisCommands, beat: BeatSample) => Promise<void>;

export interface BeatSample {
  /** Redis TIME, in milliseconds since 1970. */
  readonly redisMs: number;
  readonly roundTripMs: number;
  /** How long ago, in monotonic ms, the answer came. */
  readonly receivedMs: number;
}

export interface RedisOptions {
  readonly target: RedisTarget;
  /** `cluster.commandMs`. */
  readonly commandMs: number;
  /** `cluster.heartbeatMs`; a beat is made each quarter of it. */
  readonly heartbeatMs: number;
  /** Beginning of all keys. */
  readonly prefix: string;
  readonly clock: Clock;
  /** Told once for each cause why Redis is down; the text is one line without secrets. */
  readonly onProblem: (text: string) => void;
}

export interface RedisCounters {
  ok: number;
  timeout: number;
  error: number;
  refused: number;
}

const maxInFlight = 10_000;
const firstPauseMs = 50;
const maxPauseMs = 500;
/** Most causes that are told of one time without Redis. */
const maxTold = 5;
/** Replies by which a server says that it cannot serve now, or is the wrong one by now. */
const unusable = /^(?:LOADING|MASTERDOWN|CLUSTERDOWN|READONLY|NOAUTH)\b/;

/**
 * [K6] Redis behind a deadline and a circuit breaker. Every command ends within `commandMs`. A missed deadline, a broken
 * connection or a server that cannot serve makes it down: whatever is under way ends, everything else is refused at
 * once, and a new way is tried each half second or oftener, until a whole heartbeat succeeds.
 *
 * A command that ended by its deadline may still be run by Redis later: users must bear that.
 */
export class Redis implements RedisState, RedisCommands {
  readonly counters: RedisCounters = { ok: 0, timeout: 0, error: 0, refused: 0 };
  readonly name: string;
  isUp = false;
  epoch = 0;
  beatMs = Number.NEGATIVE_INFINITY;
  /** Why it is down, in one line; empty while it is up. */
  problem = 'not connected yet';

  readonly #options: RedisOptions;
  readonly #listeners = new Set<() => void>();
  readonly #tasks: BeatTask[] = [];
  #driver: RedisDriver | undefined;
  #identity = '';
  #inFlight = 0;
  #wasUp = false;
  #closed = false;
  /** Causes told since it was up last. */
  readonly #told = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #beating: Promise<void> | undefined;
  #failures = 0;
  #firstAttempt: Promise<void> | undefined;

  constructor(options: RedisOptions) {
    this.#options = options;
    this.name = targetText(options.target);
  }

  /** Adds to what a beat does; before `start`. */
  onBeat(task: BeatTask): void {
    this.#tasks.push(task);
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves after the first attempt to reach Redis, whether it succeeded or not; attempts go on. */
  start(): Promise<void> {
    this.#firstAttempt ??= this.#attempt();
    return this.#firstAttempt;
  }

  /** Ends the connection; what is under way is rejected. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#breakOff('closed');
    clearTimeout(this.#timer);
  }

  /** Makes a heartbeat now, or joins the one under way. @throws CoupletError `CPL_REDIS` where it fails */
  async beatNow(): Promise<void> {
    const driver = this.#driver;
    if (!this.isUp || driver === undefined) throw redisError(`Redis ${this.name} is down: ${this.problem}`);
    try {
      await (this.#beating ?? this.#nextBeat(driver));
    } catch (error) {
      throw redisError(`Redis ${this.name}: ${(error as Error).message}`, error);
    }
  }

  /** To be called where something written is found lost, by whoever finds it. */
  noteLoss(): void {
    this.epoch++;
    this.#tell();
  }

  async command(key: string, args: readonly string[]): Promise<unknown> {
    if (!this.isUp) {
      this.counters.refused++;
      throw redisError(`Redis ${this.name} is down: ${this.problem}`);
    }
    return await this.#send(this.#driver!, key, args);
  }

  script(script: RedisScript, key: string, args: readonly string[]): Promise<unknown> {
    return runScript((parts) => this.command(key, parts), script, key, args);
  }

  async #send(driver: RedisDriver, key: string, args: readonly string[]): Promise<unknown> {
    const { counters } = this;
    if (this.#inFlight >= maxInFlight) {
      counters.refused++;
      throw redisError(`Redis ${this.name} has ${maxInFlight} commands under way; one more is refused`);
    }
    this.#inFlight++;
    try {
      const reply = await within(driver.send(key, args), this.#options.commandMs, `Redis command ${args[0]}`);
      counters.ok++;
      return reply;
    } catch (error) {
      const { message } = error as Error;
      if (error instanceof DeadlineError) counters.timeout++;
      // What it says is asked for again with the script's text.
      else if (message.startsWith('NOSCRIPT')) counters.ok++;
      else counters.error++;
      if (error instanceof DeadlineError || unusable.test(message)) this.#fail(driver, message);
      throw redisError(`Redis ${this.name}: ${message}`, error);
    } finally {
      this.#inFlight--;
    }
  }

  /** One try to open a way and to make a beat over it. */
  async #attempt(): Promise<void> {
    if (this.#closed) return;
    const { target, commandMs } = this.#options;
    let driver: RedisDriver | undefined;
    try {
      let isLost = false;
      const onLost = (error: Error) => {
        isLost = true;
        if (driver !== undefined) this.#fail(driver, error.message);
      };
      driver = await openDriver({ target, withinMs: commandMs, onLost });
      if (isLost) throw new Error('the connection broke at once');
      if (this.#closed) return driver.close();
      this.#driver = driver;
      await this.#beat(driver);
    } catch (error) {
      if (driver === undefined || this.#driver === driver) this.#breakOff((error as Error).message);
      this.#retry();
    }
  }

  #retry(): void {
    if (this.#closed) return;
    const pauseMs = Math.min(maxPauseMs, firstPauseMs * 2 ** this.#failures++);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#attempt(), pauseMs * (0.5 + Math.random() / 2));
  }

  /** This way is of no use any more. */
  #fail(driver: RedisDriver, why: string): void {
    if (this.#driver !== driver) return;
    const wasBeating = this.#beating !== undefined;
    this.#breakOff(why);
    // A beat under way ends by itself now and tries again.
    if (!wasBeating) this.#retry();
  }

  #breakOff(why: string): void {
    clearTimeout(this.#timer);
    const driver = this.#driver;
    this.#driver = undefined;
    const wasUp = this.isUp;
    this.isUp = false;
    this.problem = why;
    driver?.close();
    if (!this.#closed && !this.#told.has(why) && this.#told.size < maxTold) {
      this.#told.add(why);
      this.#options.onProblem(`Redis ${this.name} is down: ${why}`);
    }
    if (wasUp) this.#tell();
  }

  /** [K6] One heartbeat; rejects where any part of it fails. */
  async #beat(driver: RedisDriver): Promise<void> {
    this.#beating = this.#makeBeat(driver);
    try {
      await this.#beating;
    } finally {
      this.#beating = undefined;
    }
  }

  async #makeBeat(driver: RedisDriver): Promise<void> {
    const { clock, commandMs, heartbeatMs, prefix } = this.#options;
    const startedMs = clock.monotonicMs();
    // Its steps have deadlines of their own; this one holds for all of them.
    const identity = await within(driver.identity(), commandMs * 3, 'asking Redis who it is');
    const commands: RedisCommands = {
      command: (key, args) => this.#send(driver, key, args),
      script: (script, key, args) => runScript((parts) => this.#send(driver, key, parts), script, key, args),
    };
    const sentMs = clock.monotonicMs();
    const [seconds, micros] = (await commands.command(`${prefix}:clock`, ['TIME'])) as [string, string];
    const receivedMs = clock.monotonicMs();
    const redisMs = Number(seconds) * 1000 + Number(micros) / 1000;
    for (const task of this.#tasks) await task(commands, { redisMs, roundTripMs: receivedMs - sentMs, receivedMs });
    if (this.#driver !== driver) throw new Error(this.problem);
    this.#succeeded(driver, identity, startedMs, heartbeatMs);
  }

  #succeeded(driver: RedisDriver, identity: string, startedMs: number, heartbeatMs: number): void {
    const nowMs = this.#options.clock.monotonicMs();
    const isLate = nowMs - this.beatMs > heartbeatMs;
    const mayBeLost = this.#wasUp && (!this.isUp || identity !== this.#identity || isLate);
    const hasChanged = mayBeLost || !this.isUp;
    this.#identity = identity;
    this.beatMs = startedMs;
    this.#wasUp = true;
    this.#failures = 0;
    this.#told.clear();
    this.problem = '';
    this.isUp = true;
    if (mayBeLost) this.epoch++;
    const restMs = Math.max(0, heartbeatMs / 4 - (nowMs - startedMs));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#nextBeat(driver).catch(() => {}), restMs);
    if (hasChanged) this.#tell();
  }

  /** One that fails breaks off, and Redis is sought again. */
  async #nextBeat(driver: RedisDriver): Promise<void> {
    clearTimeout(this.#timer);
    try {
      await this.#beat(driver);
    } catch (error) {
      if (this.#driver === driver) this.#breakOff((error as Error).message);
      this.#retry();
      throw error;
    }
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

async function runScript(
  send: (parts: readonly string[]) => Promise<unknown>,
  script: RedisScript,
  key: string,
  args: readonly string[],
): Promise<unknown> {
  try {
    return await send(['EVALSHA', script.sha1, '1', key, ...args]);
  } catch (error) {
    // A server that was restarted, or took over, does not know it yet.
    if (!((error as Error).cause as Error | undefined)?.message?.startsWith('NOSCRIPT')) throw error;
    return await send(['EVAL', script.text, '1', key, ...args]);
  }
}

function redisError(text: string, cause?: unknown): CoupletError {
  return new CoupletError('CPL_REDIS', text, cause === undefined ? {} : { cause });
}
