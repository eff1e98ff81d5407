export type RecordingForm = 'mcrec' | 'jsonl';

export interface RecordingNameParts {
  /** Empty: the default domain. */
  readonly domain: string;
  /** Start of the session, milliseconds since 1970-01-01 UTC. */
  readonly startMs: number;
  readonly userName?: string | undefined;
  readonly deviceName?: string | undefined;
  readonly sessionId: string;
  readonly form: RecordingForm;
}

const maxNameBytes = 200;
const maxIdBytes = 64;
const maxDomainBytes = 32;
const recordingName = /^relaysession-[A-Za-z0-9._-]+\.(mcrec|jsonl)$/;

/**
 * A recording's file name [R34]: `relaysession[-DOMAIN]-YYYY-MM-DD-HH-mm-SS[-USER][-DEVICE]-ID.mcrec`, in UTC, of
 * `[A-Za-z0-9._-]` only whatever the parts hold, at most 200 bytes. The longer one of USER and DEVICE is cut first;
 * ID and DOMAIN to 64 and 32. `attempt` 2, 3 … is for a name that is taken and adds `-2`, `-3` ….
 */
export function recordingFileName(parts: RecordingNameParts, attempt = 1): string {
  const domain = part(clean(parts.domain).slice(0, maxDomainBytes));
  const time = new Date(parts.startMs).toISOString().slice(0, 19).replaceAll(/[T:]/g, '-');
  const id = part(clean(parts.sessionId).slice(0, maxIdBytes));
  const again = attempt > 1 ? `-${attempt}` : '';
  const tail = `${id}${again}.${parts.form}`;
  const left = maxNameBytes - `relaysession${domain}-${time}${tail}`.length;
  const [user, device] = fit(part(clean(parts.userName ?? '')), part(clean(parts.deviceName ?? '')), left);
  return `relaysession${domain}-${time}${user}${device}${tail}`;
}

/** True for a name that {@link recordingFileName} or the incumbent gives: for sweeping, which leaves others alone. */
export function isRecordingName(name: string): boolean {
  return recordingName.test(name);
}

const startInName = /^relaysession(?:-.*?)?-(\d{4})-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-/;

/** Start of the session by the name of its recording, milliseconds since 1970-01-01 UTC; `undefined`: it tells none. */
export function startOfName(name: string): number | undefined {
  const [, ...fields] = startInName.exec(name) ?? [];
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = fields.map(Number);
  return fields.length === 0 ? undefined : Date.UTC(year, month - 1, day, hour, minute, second);
}

/** One `_` for each character that a name may not have; a pair of surrogates is one character. */
function clean(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9._-]/gu, '_');
}

function part(text: string): string {
  return text === '' ? '' : `-${text}`;
}

/** Cuts two texts to `left` bytes together; the shorter one keeps its length where it has at most half. */
function fit(first: string, second: string, left: number): [string, string] {
  if (first.length + second.length <= left) return [first, second];
  const half = Math.floor(left / 2);
  if (first.length <= half) return [first, second.slice(0, left - first.length)];
  if (second.length <= half) return [first.slice(0, left - second.length), second];
  return [first.slice(0, left - half), second.slice(0, half)];
}
