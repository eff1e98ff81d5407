import { CoupletError } from '../../core/errors.ts';
import { type ControlMessage, exitText, isGreeting, parseControlText } from '../../protocol/control-messages.ts';
import { closeError, isCleanClose, printableLine } from '../client-errors.ts';
import type { ClientHalf } from '../connect.ts';
import { deferred, within } from '../waiting.ts';
import { PseudoTerminal, type TerminalOptions } from './pseudo-terminal.ts';

/** Past this much output on its way the terminal is not read. Bytes. */
const highWaterBytes = 256 * 1024;
const maxChunkBytes = 64 * 1024;
/** After its `c` the user half must say what it wants in this time. */
const startWaitMs = 30_000;
const closeWaitMs = 2000;
const maxSize = 1000;

export interface TerminalTunnelOptions {
  /** The protocol number that the tunnel command names (R3); the user half must name the same (T8). */
  readonly protocol: number;
  readonly terminal: TerminalOptions;
  readonly signal: AbortSignal;
}

/**
 * [T11] Serves a terminal: after `c` the user half sends its options and the protocol number as texts; then binary both
 * ways with back-pressure, `termsize` texts resize. When the process ends, all its output is sent, then how it ended
 * (`exit`, to a mate whose `caps` announce it), then a close. A mate that leaves hangs the process up.
 * @throws CoupletError (as rejection) `CPL_AGENT_TERMINAL`, `CPL_CLIENT_PROTOCOL`, or by close code
 */
export function serveTerminal(half: ClientHalf, options: TerminalTunnelOptions): Promise<void> {
  return new TerminalTunnel(half, options).run();
}

class TerminalTunnel {
  readonly #half: ClientHalf;
  readonly #options: TerminalTunnelOptions;
  readonly #ended = deferred<void>();
  #isGreeted = false;
  #isOver = false;
  #size = { cols: 80, rows: 24 };
  #mateWantsExit = false;
  #terminal: PseudoTerminal | undefined;
  #isStarting = false;
  /** Input of the one read that was under way when the half was paused for the start. */
  #early: Buffer[] = [];
  #sendingBytes = 0;
  #sent: Promise<unknown> = Promise.resolve();

  constructor(half: ClientHalf, options: TerminalTunnelOptions) {
    this.#half = half;
    this.#options = options;
  }

  async run(): Promise<void> {
    const half = this.#half;
    const { signal } = this.#options;
    const onAbort = () => this.#ended.resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    const late = setTimeout(() => this.#fail('CPL_CLIENT_PROTOCOL', 'no protocol number came in time'), startWaitMs);
    void half.closed.then((close) => {
      if (isCleanClose(close.code)) this.#ended.resolve();
      else this.#ended.reject(closeError(close));
    });
    half.start({
      onText: (text) => {
        this.#onText(text);
        if (this.#isStarting) clearTimeout(late);
      },
      onBinary: (data) => this.#onBinary(data),
    });
    let failure: CoupletError | undefined;
    try {
      if (signal.aborted) return;
      await this.#ended.promise;
    } catch (error) {
      failure = error as CoupletError;
      throw error;
    } finally {
      this.#isOver = true;
      signal.removeEventListener('abort', onAbort);
      clearTimeout(late);
      this.#terminal?.hangUp();
      half.resume();
      if (failure !== undefined) await within(half.sendText(`error: ${failure.message}`), closeWaitMs);
      half.close();
      await within(half.closed, closeWaitMs);
      half.terminate();
      await this.#terminal?.ended;
    }
  }

  #onText(text: string): void {
    if (this.#isOver) return;
    const control = parseControlText(text);
    if (!this.#isGreeted && isGreeting(text)) this.#isGreeted = true;
    else if (control !== undefined) this.#onControl(control);
    else if (text.startsWith('{')) this.#onOptions(text);
    else if (/^\d{1,4}$/.test(text) && !this.#isStarting) this.#start(Number(text));
    else this.#fail('CPL_CLIENT_PROTOCOL', `a text came that is no part of a terminal: ${printableLine(text)}`);
  }

  #onControl({ type, fields }: ControlMessage): void {
    if (type === 'caps') this.#mateWantsExit = fields.exit === true;
    else if (type === 'options') this.#resize(fields);
    else if (type === 'termsize') this.#resize(fields);
    // A Couplet user half whose input has ended and that still wants the output: nothing to do here.
  }

  /** Options stand in a text of their own without `ctrlChannel`. */
  #onOptions(text: string): void {
    let fields: unknown;
    try {
      fields = JSON.parse(text);
    } catch {
      this.#fail('CPL_CLIENT_PROTOCOL', 'the options are not JSON');
      return;
    }
    if ((fields as { type?: unknown }).type === 'options') this.#resize(fields as Record<string, unknown>);
  }

  #resize({ cols, rows }: Readonly<Record<string, unknown>>): void {
    if (!isSize(cols) || !isSize(rows)) return; // a window that is not drawn yet has no size
    this.#size = { cols, rows };
    this.#terminal?.resize(cols, rows);
  }

  #start(protocol: number): void {
    if (protocol !== this.#options.protocol) {
      const allowed = `this session serves protocol ${this.#options.protocol}, not ${protocol}`;
      this.#fail('CPL_CLIENT_PROTOCOL', allowed);
      return;
    }
    this.#isStarting = true;
    // Input that comes before the process is there waits in the network.
    this.#half.pause();
    void this.#run().catch((error) => this.#ended.reject(error));
  }

  async #run(): Promise<void> {
    const terminal = await PseudoTerminal.start(this.#options.terminal, this.#size, (data) => this.#onOutput(data));
    this.#terminal = terminal;
    if (this.#isOver) terminal.hangUp();
    terminal.input.on('drain', () => this.#half.resume());
    this.#half.resume();
    for (const data of this.#early) this.#onBinary(data);
    this.#early = [];
    const { exitCode, signal = 0 } = await terminal.ended;
    await this.#sent;
    if (!this.#isOver && this.#mateWantsExit) await this.#half.sendText(exitText(exitCode, signal));
    this.#ended.resolve();
  }

  #onOutput(data: Buffer): void {
    if (this.#isOver) return;
    for (let at = 0; at < data.length; at += maxChunkBytes) {
      const chunk = data.subarray(at, at + maxChunkBytes);
      this.#sendingBytes += chunk.length;
      this.#sent = this.#half.sendBinary(chunk).then(() => {
        this.#sendingBytes -= chunk.length;
        if (this.#sendingBytes <= highWaterBytes / 2) this.#terminal?.resume();
      });
    }
    if (this.#sendingBytes > highWaterBytes) this.#terminal?.pause();
  }

  #onBinary(data: Buffer): void {
    if (this.#isOver) return;
    if (this.#isStarting && this.#terminal === undefined) this.#early.push(data);
    else if (this.#terminal === undefined) this.#fail('CPL_CLIENT_PROTOCOL', 'data came before the protocol number');
    else if (!this.#terminal.input.destroyed && !this.#terminal.input.write(data)) this.#half.pause();
  }

  #fail(code: `CPL_${string}`, what: string): void {
    this.#isOver = true;
    this.#ended.reject(new CoupletError(code, what));
  }
}

function isSize(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= maxSize;
}
