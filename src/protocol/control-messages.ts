/*
 * The texts that the relay and its clients put between a session's messages. A control message is a JSON object with
 * `"ctrlChannel":"102938"` and a `type`. The relay sends them and never looks for them; clients recognise them.
 */

const channel = '102938';

/** Longer texts are payload: a control message is a handful of numbers. Characters. */
const maxControlLength = 4096;

/** [R20] First text of a session for both halves. */
export const greetings = {
  plain: 'c',
  /** The session is recorded. */
  recorded: 'cr',
} as const;

/** Fields of a control message besides `type`. */
export type ControlFields = Readonly<Record<string, string | number | boolean>>;

export interface ControlMessage {
  readonly type: string;
  /** The whole object, for the fields of its type. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** The text of a control message; `ctrlChannel` and `type` come first, as peers in the field write them. */
export function controlText(type: string, fields: ControlFields = {}): string {
  return JSON.stringify({ ctrlChannel: channel, type, ...fields });
}

/** [R21] Keepalive texts, and those by which two Couplet clients agree to end each direction on its own (T11). */
export const controlTexts = {
  ping: controlText('ping'),
  pong: controlText('pong'),
  /** *I understand `eof`.* Announced after the greeting. */
  caps: controlText('caps', { eof: true }),
  /** *No more data this way.* Only to a mate that announced `caps`. */
  eof: controlText('eof'),
  /** *The target's connection stands.* From an agent, to a mate that announced `caps`; says what `error:` would deny. */
  connected: controlText('connected'),
  /** *I understand `exit`.* Announced by a terminal's user half. */
  terminalCaps: controlText('caps', { eof: true, exit: true }),
} as const;

/** Text of a terminal's new size, in characters (T11). */
export function termsizeText(cols: number, rows: number): string {
  return controlText('termsize', { cols, rows });
}

/** Text of how a terminal's process ended, before the close: exit code, and the signal's number (0: none). */
export function exitText(code: number, signal: number): string {
  return controlText('exit', { code, signal });
}

/**
 * Recognises a control message in a text message; `undefined` for payload. Ordinary text costs no JSON parse. The
 * channel may be written as a number, as some peers do.
 */
export function parseControlText(text: string): ControlMessage | undefined {
  if (text.charCodeAt(0) !== 0x7b || text.length > maxControlLength || !text.includes(channel)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined; // not JSON: payload that happens to start alike
  }
  const fields = value as Record<string, unknown>;
  if (fields.ctrlChannel !== channel && fields.ctrlChannel !== Number(channel)) return undefined;
  return typeof fields.type === 'string' ? { type: fields.type, fields } : undefined;
}

/** True for the greeting of either kind (R20). */
export function isGreeting(text: string): boolean {
  return text === greetings.plain || text === greetings.recorded;
}
