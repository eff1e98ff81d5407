import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import type { TestContext } from 'node:test';
import { verifyRecording } from '../../src/recording/verify.ts';
import { type Client, connect } from './client.ts';
import type { Random } from './random.ts';
import { readRecording, recordingsIn } from './recordings.ts';
import type { ServeChild } from './serve.ts';

type Side = 'user' | 'device';
const mateOf = { user: 'device', device: 'user' } as const;

/** How often the pump sends, and so looks at how late its own timer is. */
const pumpMs = 4;

/** One session: what each half sent, and when its mate had it. */
interface Talk {
  readonly id: string;
  readonly halves: Partial<Record<Side, Client>>;
  readonly sent: Readonly<Record<Side, string[]>>;
  /** Monotonic milliseconds by number of the message. */
  readonly arrivedMs: Readonly<Record<Side, number[]>>;
}

/**
 * Many recorded sessions in which both halves send numbered messages of all sizes, some hundred a second in all, to a
 * server that may go at any moment.
 */
export class RecordedTraffic {
  readonly talks: readonly Talk[];
  readonly #random: Random;
  readonly #lags: { readonly atMs: number; readonly lagMs: number }[] = [];
  #timer: NodeJS.Timeout | undefined;
  #dueMs = 0;

  constructor(random: Random, count: number, prefix: string) {
    this.#random = random;
    this.talks = Array.from({ length: count }, (_, i) => ({
      id: `${prefix}-${i}`,
      halves: {},
      sent: { user: [], device: [] },
      arrivedMs: { user: [], device: [] },
    }));
  }

  /** Opens the sessions; one whose server goes meanwhile stays closed. Sending begins with the first. */
  async open(t: TestContext, serve: ServeChild): Promise<void> {
    this.#dueMs = performance.now();
    this.#pump();
    t.after(() => this.stop());
    await Promise.all(
      this.talks.map(async (talk) => {
        try {
          const user = await connect(t, serve.url('user', talk.id, { p: 1 }));
          this.#listen(talk, 'user', user);
          this.#listen(talk, 'device', await connect(t, serve.url('device', talk.id)));
        } catch (error) {
          if (!serve.ended && !serve.child.killed) throw error;
        }
      }),
    );
  }

  get sentCount(): number {
    return this.talks.reduce((sum, { sent }) => sum + sent.user.length + sent.device.length, 0);
  }

  /** The longest that this process was late since then: how much this machine delays a thread that wants to run. */
  worstLagMs(sinceMs: number): number {
    return Math.max(
      performance.now() - this.#dueMs,
      ...this.#lags.filter(({ atMs }) => atMs > sinceMs).map(({ lagMs }) => lagMs),
      0,
    );
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #listen(talk: Talk, side: Side, client: Client): void {
    let greeted = false;
    const take = (data: Buffer) => {
      if (greeted) {
        talk.arrivedMs[mateOf[side]].push(performance.now());
        const number = talk.arrivedMs[mateOf[side]].length - 1;
        assert.equal(
          data.toString(),
          talk.sent[mateOf[side]][number],
          `message ${number} to the ${side} of ${talk.id}`,
        );
        return;
      }
      assert.equal(data.toString(), 'cr');
      greeted = true;
      talk.halves[side] = client;
    };
    for (const { data } of client.received) take(data);
    client.ws.on('message', take);
  }

  #pump(): void {
    const now = performance.now();
    this.#lags.push({ atMs: now, lagMs: now - this.#dueMs });
    this.#dueMs = now + pumpMs;
    this.#timer = setTimeout(() => this.#pump(), pumpMs);
    for (let i = 0; i < 2; i++) {
      const talk = this.#random.pick(this.talks);
      const side = this.#random.pick(['user', 'device'] as const);
      const half = talk.halves[side];
      if (half === undefined || talk.halves[mateOf[side]] === undefined || half.isClosed) continue;
      const size = this.#random.below(this.#random.pick([10, 300, 300, 3000, 30_000]));
      const text = `${talk.id}:${side}:${talk.sent[side].length}:${'z'.repeat(size)}`;
      talk.sent[side].push(text);
      half.send(text);
    }
  }

  /**
   * [R37] Every recording holds, from each half and in order, the first messages it sent, none twice or missing in
   * between, and all those that had come to its mate by `byMs` (monotonic milliseconds).
   * @returns how long before `endMs` the oldest message that is lost had come, milliseconds
   */
  assertRecorded(serve: ServeChild, byMs: number, endMs: number): number {
    const paths = recordingsIn(serve.folder);
    let lostMs = 0;
    for (const { id, sent, arrivedMs } of this.talks) {
      const path = paths.find((name) => basename(name).includes(`-${id}.`));
      const messages = path === undefined || statSync(path).size === 0 ? [] : readRecording(path).messages;
      for (const side of ['user', 'device'] as const) {
        const recorded = messages.filter(({ from }) => from === side).map(({ data }) => data.toString());
        assert.deepEqual(recorded, sent[side].slice(0, recorded.length), `${side} of ${id}`);
        const firstLost = arrivedMs[side][recorded.length];
        if (firstLost === undefined) continue;
        lostMs = Math.max(lostMs, endMs - firstLost);
        const late = firstLost - byMs;
        assert.ok(late > 0, `${side} of ${id}: message ${recorded.length} came ${-late} ms too early to be lost`);
      }
    }
    return lostMs;
  }
}

/** Whether a recording, however damaged, has its end block; one that was removed meanwhile needs none. */
export function isFinished(path: string): boolean {
  try {
    return readFileSync(path).subarray(-16).toString('latin1') === 'MeshCentralMCREC';
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return true;
    throw error;
  }
}

/** Every recording in the folder can be played and is what it says. A torn sidecar may tell less of it. */
export function assertAllVerify(folder: string): void {
  for (const path of recordingsIn(folder)) {
    const { state, problems } = verifyRecording(path);
    assert.deepEqual({ state, problems }, { state: 'complete', problems: [] }, basename(path));
  }
}
