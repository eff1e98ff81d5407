import type { Readable, Writable } from 'node:stream';
import { CoupletError } from '../core/errors.ts';
import { controlTexts, isGreeting, parseControlText, termsizeText } from '../protocol/control-messages.ts';
import { closeError, isCleanClose, printableLine } from './client-errors.ts';
import type { ClientHalf } from './connect.ts';
import { deferred, within } from './waiting.ts';

const closeWaitMs = 2000;
const maxChunkBytes = 64 * 1024;
/** What a terminal takes for the end of its input. */
const endOfInput = Buffer.of(0x04);
const newline = Buffer.from('\n');
/** Between two ends of input, while the shell goes on; longer and longer as long as nothing comes from it. */
const endAgainMs = 1000;
const maxEndAgainMs = 8000;

/** The local terminal, or what stands for one. */
export interface ShellTerminal {
  readonly input: Readable;
  readonly output: Writable;
  /** Characters; `undefined` where there is no window. */
  size(): { cols: number; rows: number } | undefined;
  /** Calls on every new size until the function returned is called. */
  onResize(listener: () => void): () => void;
  /** Keys go through as they are, until the function returned is called; it may be called more than once. */
  makeRaw(): () => void;
  /** Asks whoever sits there for a password; missing where nobody does. */
  readonly askPassword?: (prompt: string, signal: AbortSignal) => Promise<string>;
}

export interface ShellOptions {
  readonly terminal: ShellTerminal;
  /** Terminal protocol number (R3); the ticket was made for it. */
  readonly protocol: number;
  readonly signal: AbortSignal;
}

/**
 * [T12] An interactive terminal on a device. Resolves with the exit status of the remote shell (128 + number where a
 * signal ended it; 0 where the agent does not tell). The local terminal is as it was before when this settles.
 * @throws CoupletError (as rejection): by close code; `CPL_CLIENT_MATE_ERROR`; the signal's reason
 */
export async function runShell(half: ClientHalf, options: ShellOptions): Promise<number> {
  const { terminal, signal } = options;
  const restore = terminal.makeRaw();
  try {
    return await new Shell(half, options).run();
  } finally {
    restore();
    if (!signal.aborted) await within(half.closed, closeWaitMs);
    half.terminate();
  }
}

class Shell {
  readonly #half: ClientHalf;
  readonly #options: ShellOptions;
  readonly #ended = deferred<number>();
  #isGreeted = false;
  #status = 0;
  #endWaitMs = endAgainMs;

  constructor(half: ClientHalf, options: ShellOptions) {
    this.#half = half;
    this.#options = options;
  }

  async run(): Promise<number> {
    const { terminal, signal } = this.#options;
    const half = this.#half;
    const onAbort = () => this.#ended.reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    const endResize = terminal.onResize(() => this.#sendSize());
    const onDrain = () => half.resume();
    const onOutputError = (cause: Error) => this.#fail('CPL_CLIENT_OUTPUT_CLOSED', `cannot write: ${cause.message}`);
    terminal.output.on('drain', onDrain);
    terminal.output.on('error', onOutputError);
    void half.closed.then((close) => {
      if (isCleanClose(close.code) && this.#isGreeted) this.#ended.resolve(this.#status);
      else this.#ended.reject(closeError(close));
    });
    half.start({ onText: (text) => this.#onText(text), onBinary: (data) => this.#onBinary(data) });
    try {
      return await this.#ended.promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
      endResize();
      terminal.output.off('drain', onDrain);
      terminal.output.off('error', onOutputError);
      terminal.input.pause();
      half.resume();
      half.close();
    }
  }

  #onText(text: string): void {
    const control = parseControlText(text);
    if (!this.#isGreeted && isGreeting(text)) {
      this.#isGreeted = true;
      void this.#converse();
    } else if (control?.type === 'exit') {
      const { code, signal } = control.fields;
      this.#status = typeof signal === 'number' && signal > 0 ? 128 + signal : typeof code === 'number' ? code : 1;
    } else if (text.startsWith('error:')) {
      this.#fail('CPL_CLIENT_MATE_ERROR', `the mate reports ${printableLine(text)}`);
    } else if (control === undefined) {
      // Some agents write output as text.
      this.#onBinary(Buffer.from(text));
    }
  }

  async #converse(): Promise<void> {
    const { terminal, protocol } = this.#options;
    const half = this.#half;
    void half.sendText(controlTexts.terminalCaps);
    void half.sendText(JSON.stringify({ type: 'options', ...(terminal.size() ?? { cols: 80, rows: 24 }) }));
    await half.sendText(String(protocol));
    let lastByte = newline[0];
    try {
      for await (const chunk of terminal.input.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        for (let at = 0; at < chunk.length; at += maxChunkBytes) {
          if (!(await half.sendBinary(chunk.subarray(at, at + maxChunkBytes)))) return;
        }
        lastByte = chunk.at(-1) ?? lastByte;
      }
      // An end within a line ends no input there.
      if (lastByte !== newline[0] && !(await half.sendBinary(newline))) return;
      await this.#endInput();
    } catch (cause) {
      this.#fail('CPL_CLIENT_INPUT', `cannot read the input: ${printableLine(String(cause))}`);
    }
  }

  /**
   * A terminal takes the end for what reads it at that moment. A shell that starts up, or waits for a command, never
   * sees it: it is sent again until the session ends.
   */
  async #endInput(): Promise<void> {
    const half = this.#half;
    while (await half.sendBinary(endOfInput)) {
      await within(half.closed, this.#endWaitMs);
      this.#endWaitMs = Math.min(this.#endWaitMs * 1.5, maxEndAgainMs);
    }
  }

  #sendSize(): void {
    const size = this.#options.terminal.size();
    if (this.#isGreeted && size !== undefined) void this.#half.sendText(termsizeText(size.cols, size.rows));
  }

  #onBinary(data: Buffer): void {
    this.#endWaitMs = endAgainMs;
    if (!this.#options.terminal.output.write(data)) this.#half.pause();
  }

  #fail(code: `CPL_${string}`, what: string): void {
    this.#ended.reject(new CoupletError(code, what));
  }
}
