import { StringDecoder } from 'node:string_decoder';
import { CoupletError } from '../core/errors.ts';
import { protocolOf, type SessionHeader, terminalProtocols } from './format.ts';
import type { RecordingReader } from './reader.ts';
import { PreciseTimes, type SidecarReader } from './sidecar.ts';
import { defaultTerminalSize, type TerminalSize, terminalEvent } from './terminal.ts';

export interface AsciicastOptions {
  /** What the user typed too: it may hold passwords that were never shown. */
  readonly input?: boolean;
}

/** The first line of an asciicast v2 file. */
export interface AsciicastHeader {
  readonly version: 2;
  readonly width: number;
  readonly height: number;
  /** Start, whole seconds since 1970-01-01 UTC. */
  readonly timestamp: number;
  readonly title?: string;
}

/** Seconds from the start; `o` output, `i` input, `r` resize as `COLUMNSxROWS`. */
export type AsciicastEvent = readonly [seconds: number, code: 'o' | 'i' | 'r', data: string];

/**
 * A terminal session as the lines of an asciicast v2 file, the header first. Reads to the last whole block, and
 * `reader.end` then says how the recording ends. Constant memory.
 * @throws CoupletError `CPL_RECORDING_PROTOCOL` where it is no terminal session
 */
export function* exportAsciicast(
  reader: RecordingReader,
  options: AsciicastOptions = {},
  sidecar?: SidecarReader,
): Generator<AsciicastHeader | AsciicastEvent, void> {
  const header = reader.sessionHeader();
  if (typeof header === 'string') throw notExportable(header);
  const protocol = protocolOf(header);
  if (!terminalProtocols.has(protocol)) {
    throw notExportable(`protocol ${protocol} is no terminal; only 1, 6, 8 and 9 can be exported as asciicast`);
  }
  const times = new PreciseTimes(sidecar);
  const output = new StringDecoder('utf8');
  const input = new StringDecoder('utf8');
  let size: TerminalSize | undefined;
  let startUs: number | undefined;
  let lastUs = 0;
  for (const block of reader.blocks()) {
    const timeUs = times.of(block) ?? block.time * 1000;
    const event = terminalEvent(block);
    if (event === undefined) continue;
    // Players take events in order; the clock of a strange file may step back.
    lastUs = Math.max(lastUs, timeUs);
    startUs ??= lastUs;
    const seconds = (lastUs - startUs) / 1e6;
    if (size === undefined) {
      // The size comes before any output as a rule; what it is later is told by resize events.
      if (event.kind === 'input' && options.input !== true) continue;
      size = event.kind === 'size' ? event.size : defaultTerminalSize;
      yield headerLine(header, size, startUs);
      if (event.kind === 'size') continue;
    }
    if (event.kind === 'size') yield [seconds, 'r', `${event.size.columns}x${event.size.rows}`];
    else if (event.kind === 'output') yield* textEvent(seconds, 'o', output.write(event.data));
    else if (options.input === true) yield* textEvent(seconds, 'i', input.write(event.data));
  }
  if (size === undefined) yield headerLine(header, defaultTerminalSize, 0);
}

/** None where a block ends within a character: its bytes come with the next one. */
function* textEvent(seconds: number, code: 'o' | 'i', text: string): Generator<AsciicastEvent, void> {
  if (text !== '') yield [seconds, code, text];
}

function headerLine(header: SessionHeader, size: TerminalSize, startUs: number): AsciicastHeader {
  const names = [header.username, header.devicename].filter((name) => typeof name === 'string');
  return {
    version: 2,
    width: size.columns,
    height: size.rows,
    timestamp: Math.floor(startUs / 1e6),
    ...(names.length > 0 && { title: names.join(' on ') }),
  };
}

function notExportable(text: string): CoupletError {
  return new CoupletError('CPL_RECORDING_PROTOCOL', text);
}
