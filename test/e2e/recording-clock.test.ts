import assert from 'node:assert/strict';
import { existsSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Clock } from '../../src/core/clock.ts';
import { CookieSealer, LoginKey } from '../../src/index.ts';
import { blockType } from '../../src/recording/format.ts';
import { RecordingReader } from '../../src/recording/reader.ts';
import { PreciseTimes, SidecarReader } from '../../src/recording/sidecar.ts';
import { verifyRecording } from '../../src/recording/verify.ts';
import { connect } from '../support/client.ts';
import { readRecording, recordingsIn } from '../support/recordings.ts';
import { temporaryFolder, until } from '../support/relay.ts';
import { startServe } from '../support/serve.ts';
import { missing } from '../support/services.ts';

/** Where Debian's package libfaketime has what is loaded into a program with threads. */
function faketimeLibrary(): string | undefined {
  return readdirSync('/usr/lib')
    .map((folder) => join('/usr/lib', folder, 'faketime', 'libfaketimeMT.so.1'))
    .find((file) => existsSync(file));
}

/** A wall clock that a child process reads in place of its own, and that can be set while it runs. */
class FakeWallClock implements Clock {
  readonly env: Readonly<Record<string, string>>;
  readonly #file: string;
  #offsetMs = 0;

  constructor(t: TestContext, library: string) {
    this.#file = join(temporaryFolder(t), 'clock');
    this.env = {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: this.#file,
      FAKETIME_NO_CACHE: '1', // the file is read at each question for the time
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    };
    this.set(0);
  }

  /** Milliseconds from the real clock, whole seconds. In one step: the child never sees half a number. */
  set(offsetMs: number): void {
    const fresh = `${this.#file}.new`;
    writeFileSync(fresh, `${offsetMs < 0 ? '' : '+'}${offsetMs / 1000}\n`);
    renameSync(fresh, this.#file);
    this.#offsetMs = offsetMs;
  }

  /** The same time as the child's, for cookies: one from the future is refused. */
  nowMs(): number {
    return Date.now() + this.#offsetMs;
  }

  monotonicMs(): number {
    return performance.now();
  }
}

/** Microseconds of the data blocks, from the sidecar. */
function sidecarTimes(path: string): (number | undefined)[] {
  const reader = RecordingReader.open(path);
  const sidecar = SidecarReader.open(path);
  try {
    const times = new PreciseTimes(sidecar);
    return Array.from(reader.blocks(), (block) => ({ type: block.type, timeUs: times.of(block) }))
      .filter(({ type }) => type === blockType.data)
      .map(({ timeUs }) => timeUs);
  } finally {
    sidecar?.close();
    reader.close();
  }
}

const backMs = 3_600_000; // one hour
/** A file's two clocks are read together as closely as reading the faked one, a file, allows. */
const slackMs = 1000;

for (const forwarder of ['native', 'portable'] as const) {
  test(`[M8] [M11] fault 37: ${forwarder}: the wall clock steps back an hour in mid-session`, {
    timeout: 60_000,
  }, async (t) => {
    const library = faketimeLibrary();
    if (library === undefined) return missing(t, 'libfaketime is not installed; scripts/test-services says how');
    const clock = new FakeWallClock(t, library);
    const settings = { relay: { forwarder }, recording: { mode: 'best-effort', index: false } };
    const serve = await startServe(t, { settings, env: clock.env });

    const sealer = new CookieSealer(LoginKey.readFile(join(serve.folder, 'key')), clock, 'base64');
    const url = (query: Record<string, string>): string =>
      `ws://127.0.0.1:${serve.port}/relay?${new URLSearchParams(query)}`;

    /** Within what each exchange happened: milliseconds of the real clock. */
    const sentAt: { before: number; after: number }[] = [];
    const pairUp = async (id: string) => {
      const device = await connect(t, url({ id, rauth: sealer.seal({ ruserid: 'user//alice' }) }));
      const auth = sealer.seal({ userid: 'user//alice', domainid: '' });
      const user = await connect(t, url({ id, p: '1', auth }));
      assert.deepEqual([await user.nextText(), await device.nextText()], ['cr', 'cr']);
      const exchange = async (text: string): Promise<void> => {
        const before = Date.now();
        user.send(`${text}?`);
        assert.equal(await device.nextText(), `${text}?`);
        device.send(`${text}!`);
        assert.equal(await user.nextText(), `${text}!`);
        sentAt.push({ before, after: Date.now() });
      };
      return { user, device, exchange };
    };

    const early = await pairUp('early');
    await early.exchange('before the step');
    clock.set(-backMs);
    await early.exchange('after it');
    const lateFrom = Date.now();
    const late = await pairUp('late');
    await late.exchange('on the new clock');
    await early.exchange('and again');
    clock.set(-2 * backMs);
    await early.exchange('after the second step');
    for (const { user, device } of [early, late]) {
      user.ws.close(1000);
      await device.closed;
    }
    await until(async () => (await serve.metric('couplet_recordings_finished_total')) === 2, 'two finished recordings');
    const over = Date.now();

    const paths = recordingsIn(serve.folder);
    const [earlyPath, latePath] = ['early', 'late'].map((id) => paths.find((path) => path.endsWith(`-${id}.mcrec`))!);
    for (const path of paths) {
      const { problems, notes, checkedBlocks, blocks } = verifyRecording(path);
      assert.deepEqual([problems, notes, checkedBlocks], [[], [], blocks], path);
      const { messages, endTime } = readRecording(path);
      const times = [...messages.map(({ time }) => time), endTime];
      assert.deepEqual(times, times.toSorted(), `${path}: times in order, the end's too`);
      const micros = sidecarTimes(path);
      assert.ok(
        micros.every((timeUs, i) => timeUs !== undefined && timeUs >= (micros[i - 1] ?? 0)),
        `${micros}`,
      );
    }

    // A file goes on with the clock it began with: the real one, as if nothing had been set.
    const { messages, endTime } = readRecording(earlyPath!);
    const inEarly = [sentAt[0]!, sentAt[1]!, sentAt[3]!, sentAt[4]!].flatMap((span) => [span, span]);
    assert.equal(messages.length, inEarly.length);
    for (const [i, { before, after }] of inEarly.entries()) {
      const { time, data } = messages[i]!;
      assert.ok(
        time >= before - slackMs && time <= after + slackMs,
        `"${data}" at ${time}, sent within ${before} to ${after}`,
      );
    }
    assert.ok(endTime >= inEarly.at(-1)!.before - slackMs && endTime <= over + slackMs, `the end at ${endTime}`);

    // A new file begins with the new clock, and is named by it.
    const second = readRecording(latePath!);
    const { before, after } = sentAt[2]!;
    for (const { time, data } of second.messages) {
      const real = time + backMs;
      assert.ok(
        real >= before - slackMs && real <= after + slackMs,
        `"${data}" at ${time}, sent within ${before} to ${after} less an hour`,
      );
    }
    const startMs = Number(BigInt(String(second.header.startNs)) / 1_000_000n) + backMs;
    assert.ok(
      startMs >= lateFrom - slackMs && startMs <= before + slackMs,
      `started at ${startMs}, within ${lateFrom} to ${before}`,
    );
    const day = new Date(lateFrom - backMs).toISOString().slice(0, 13).replace('T', '-');
    const soon = new Date(over - backMs).toISOString().slice(0, 13).replace('T', '-');
    assert.ok(
      [day, soon].some((hour) => latePath!.includes(`-${hour}-`)),
      `${latePath} is named by ${day}`,
    );
  });
}
