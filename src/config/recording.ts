import { z } from 'zod';
import { isPrintableId, parseId } from '../core/ids.ts';
import {
  anyPath,
  choice,
  maxCount,
  maxTimerMs,
  onOff,
  optionalChoice,
  optionalList,
  optionalNumbers,
  optionalOnOff,
  optionalWords,
  path,
  table,
  whole,
} from './setting.ts';

/*
 * The settings of recordings [R33]–[R38], global and of domains. They count for sessions that start after a reload:
 * whether and how a session is recorded is decided once.
 */

const modes = ['off', 'best-effort', 'strict'] as const;
/** [R3] What sessions may be; 0 is none or another. */
const protocolNumbers = [0, 1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 100, 101, 200];
const maxBytes = 1_000_000_000_000_000;
const maxHours = 1_000_000;
const reloadable = true;

/** Selections compare whole ids: a bare name would match nobody, and nothing would tell. */
function idsOf(what: string, form: string, check: (id: string) => boolean, about: string) {
  const allowed = `a list of one or more ids of ${what}, ${form}`;
  return optionalList(check, 'ID,…', allowed, {
    about,
    derivedDefault: 'everybody, where none of the three lists is given',
    reloadable,
  });
}

export const recording = z
  .strictObject({
    mode: choice(modes, 'off', {
      about:
        'Whether sessions are recorded. `best-effort`: a session whose recording fails goes on without; `strict`: nothing is forwarded before the recording stands, and a session whose recording fails is closed with 4500.',
      flag: 'recording',
      reloadable,
    }),
    dir: optionalWords(anyPath, 'DIR', path, {
      about: 'Folder of the recordings.',
      derivedDefault: '`recordings` in `server.dataDir`',
    }),
    protocols: optionalNumbers(protocolNumbers, {
      about:
        'Protocols that are recorded: 1 terminal, 2 desktop, 5 files, 6 admin PowerShell, 8 user shell, 9 user PowerShell, 10 web RDP, 11 web SSH, 12 web VNC, 13 web SSH files, 14 web TCP, 100 and 101 Intel AMT, 200 messenger, 0 none or another.',
      derivedDefault: 'all',
      reloadable,
    }),
    users: idsOf(
      'users',
      'user/DOMAIN/NAME',
      (id) => parseId(id)?.kind === 'user',
      'Users whose sessions are recorded. Of this list and the next two one match is enough; without any, sessions of everybody are.',
    ),
    userGroups: idsOf(
      'user groups',
      '1 to 256 printable ASCII characters each',
      isPrintableId,
      'User groups whose members have their sessions recorded.',
    ),
    deviceGroups: idsOf(
      'device groups',
      'mesh/DOMAIN/ID',
      (id) => parseId(id)?.kind === 'mesh',
      'Device groups to whose devices sessions are recorded.',
    ),
    index: onOff(true, { about: 'Index a recording after its end, so that players can seek.', reloadable }),
    sidecar: onOff(true, {
      about: 'Write times to the microsecond and checksums into a file beside the recording.',
      reloadable,
    }),
    flushMs: whole(250, 1, maxTimerMs, {
      about: 'Most that a crash of the process may cost of a recording.',
    }),
    fsyncMs: whole(1000, 1, maxTimerMs, {
      about: 'Most that a power cut may cost of a recording; not less than `recording.flushMs`.',
    }),
    // A file may use a quarter of it, which is to hold one batch.
    maxQueueBytes: whole(268_435_456, 1_048_576, 1_000_000_000_000, {
      about:
        'Most unwritten data of all recordings; a single one may have a quarter. Past it, strict sessions are held back and best-effort recordings end.',
    }),
    threads: whole(1, 1, 64, { about: 'Threads that write recordings, each with one that syncs them.' }),
    startMs: whole(5000, 1, maxTimerMs, {
      about:
        "How long a session's start may wait for its recording to be opened (strict: to be durable) before that counts as failed.",
      reloadable,
    }),
    maxAgeHours: whole(0, 0, maxHours, {
      about: 'Recordings not written to for longer are deleted.',
      zero: 'no limit',
      reloadable,
    }),
    maxCount: whole(0, 0, maxCount, {
      about: 'Most recordings in a folder; the oldest are deleted.',
      zero: 'no limit',
      reloadable,
    }),
    maxTotalBytes: whole(0, 0, maxBytes, {
      about: 'Most bytes of the recordings in a folder, sidecars included; the oldest are deleted.',
      zero: 'no limit',
      reloadable,
    }),
    sweepSeconds: whole(60, 1, 2_147_483, { about: 'Interval at which the three limits are held.', reloadable }),
  })
  .prefault({});

const ofDomain = {
  recording: z
    .strictObject({
      mode: optionalChoice(modes, { about: 'In place of `recording.mode`.', reloadable }),
      dir: optionalWords(anyPath, 'DIR', path, {
        about: 'In place of `recording.dir`. Until the restart a domain, also a new one, keeps the folder it has.',
      }),
      protocols: optionalNumbers(protocolNumbers, { about: 'In place of `recording.protocols`.', reloadable }),
      index: optionalOnOff({ about: 'In place of `recording.index`.', reloadable }),
    })
    .optional(),
};

export const domains = table(
  'domain names',
  // Not what objects have by themselves: it would be dropped without a word.
  /^(?!__proto__$)[A-Za-z0-9._-]{1,64}$/,
  '1 to 64 letters, digits, `.`, `_`, `-`',
  ofDomain,
  {
    about:
      'Domains and what they have of their own in place of the global settings. With directory `none` every domain is known, also those not named here.',
    reloadable,
  },
);
