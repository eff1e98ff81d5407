import { optionsError } from './server-options.ts';

const msPer = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/**
 * Milliseconds of `90s`, `30m`, `2h` or `7d`.
 * @throws CoupletError `CPL_CLIENT_OPTIONS`
 */
export function parseDurationMs(text: string, option: string): number {
  const match = /^([0-9]{1,6})([smhd])$/.exec(text);
  const ms = match === null ? 0 : Number(match[1]) * msPer[match[2] as keyof typeof msPer];
  if (ms > 0) return ms;
  throw optionsError(`${option} is ${JSON.stringify(text)}; it must be as 90s, 30m, 2h or 7d`);
}
