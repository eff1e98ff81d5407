import assert from 'node:assert/strict';
import { createConnection, type Socket } from 'node:net';
import type { ClusterServer, TestCluster } from './cluster.ts';
import type { Random } from './random.ts';
import { clientFrame, upgradeHead } from './raw-half.ts';
import { until } from './relay.ts';

/**
 * A half of the load, as cheap as can be: its frames are short. Once it is greeted it says which half it is; what it
 * hears must be what its mate says.
 */
export class LoadHalf {
  readonly meeting: Meeting;
  readonly name: string;
  readonly server: ClusterServer;
  readonly #path: string;
  readonly #socket: Socket;
  #rest: Buffer = Buffer.alloc(0);
  /** Of the answer to the upgrade; 0 before. */
  status = 0;
  closeCode = 0;
  greetings = 0;
  readonly heard: string[] = [];
  isConnected = false;
  isBroken = false;
  sentMs = 0;
  upgradedMs = 0;
  greetedMs = 0;
  overMs = 0;

  constructor(meeting: Meeting, name: string, server: ClusterServer, path: string) {
    this.meeting = meeting;
    this.name = name;
    this.server = server;
    this.#path = path;
    this.#socket = createConnection({ host: '127.0.0.1', port: server.port, noDelay: true });
    this.#socket.on('connect', () => {
      this.isConnected = true;
    });
    this.#socket.on('data', (chunk) => this.#take(chunk));
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => {
      this.isBroken = true;
      this.overMs ||= performance.now();
    });
  }

  get isPaired(): boolean {
    return this.greetings > 0 && this.heard.length > 0;
  }
  get isRefused(): boolean {
    return this.closeCode !== 0 || this.status >= 400;
  }
  get isOver(): boolean {
    return this.isRefused || this.isBroken;
  }

  /** Sends the upgrade request: it arrives. */
  arrive(): void {
    this.sentMs = performance.now();
    if (!this.isBroken) this.#socket.write(upgradeHead(this.#path));
  }

  say(text: string): void {
    this.#socket.write(clientFrame(1, text));
  }

  close(): void {
    if (!this.isBroken) this.#socket.write(clientFrame(8, Buffer.from([3, 232])));
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    if (this.status === 0) {
      const end = bytes.indexOf('\r\n\r\n');
      if (end < 0) {
        this.#rest = bytes;
        return;
      }
      this.status = Number(bytes.toString('latin1', 9, 12));
      bytes = bytes.subarray(end + 4);
      this.upgradedMs = performance.now();
      if (this.status !== 101) {
        this.overMs = performance.now();
        this.#socket.destroy();
        return;
      }
    }
    while (bytes.length >= 2 && bytes.length >= 2 + bytes[1]!) {
      const length = bytes[1]!;
      if (length > 125) throw new Error(`a frame of length code ${length}: the load's are short`);
      this.#frame(bytes[0]! & 15, bytes.subarray(2, 2 + length));
      bytes = bytes.subarray(2 + length);
    }
    this.#rest = bytes;
  }

  #frame(opcode: number, payload: Buffer): void {
    if (opcode === 1 && payload.toString() === 'c') {
      this.greetings++;
      this.greetedMs = performance.now();
      this.say(`${this.meeting.id} ${this.name}`);
    } else if (opcode === 1) this.heard.push(payload.toString());
    else if (opcode === 8) {
      this.closeCode = payload.length < 2 ? 1005 : payload.readUInt16BE(0);
      this.overMs ||= performance.now();
      if (!this.isBroken) this.#socket.end(clientFrame(8, payload.subarray(0, 2)));
    }
  }
}

/** An id and the halves that come for it. */
export class Meeting {
  readonly id: string;
  readonly halves: LoadHalf[] = [];

  constructor(id: string) {
    this.id = id;
  }

  /** Whether its first two halves are on different servers. */
  get isAcross(): boolean {
    return this.halves[0]!.server !== this.halves[1]!.server;
  }

  /** From the arrival of the later of two halves to the greeting of both, milliseconds. */
  get pairingMs(): number {
    const [a, b] = this.halves as [LoadHalf, LoadHalf];
    return Math.max(a.greetedMs, b.greetedMs) - Math.max(a.sentMs, b.sentMs);
  }

  get isPaired(): boolean {
    return this.halves.filter((half) => half.isPaired).length === 2;
  }

  /** What is wrong with it, whatever had happened: `undefined` where at most one pair met, and heard its own mate only. */
  get wrong(): string | undefined {
    const greeted = this.halves.filter(({ greetings }) => greetings > 0);
    if (greeted.length > 2) return `${this.id}: ${greeted.length} halves were greeted`;
    for (const { name, greetings, heard } of this.halves) {
      if (greetings > 1 || heard.length > 1) return `${this.id} ${name}: ${greetings} greetings, heard ${heard}`;
      const isMates = heard.every((text) =>
        greeted.some((mate) => mate.name !== name && text === `${this.id} ${mate.name}`),
      );
      if (!isMates || heard.length > greetings) return `${this.id} ${name}: ${greetings} greetings, heard ${heard}`;
    }
    return undefined;
  }

  /** For a failure's text. */
  describe(): string {
    const halves = this.halves.map(
      ({ name, server, status, closeCode, greetings, heard, isBroken, sentMs, overMs }) =>
        `${name}@${server.number} status ${status} close ${closeCode} greetings ${greetings} heard ${heard.length}${isBroken ? ' broken' : ''}${overMs ? ` over after ${Math.round(overMs - sentMs)} ms` : ''}`,
    );
    return `${this.id}: ${halves.join('; ')}`;
  }
}

export interface WaveOptions {
  readonly random: Random;
  readonly sessions: number;
  /** Sessions that come per second. */
  readonly perSecond: number;
  /** Where halves may come; by default every live server. */
  readonly servers?: readonly ClusterServer[];
  /** Halves of each id; every other one is a device half. */
  readonly halves?: number;
  /** Halves of one id come within this long of each other. */
  readonly withinMs?: number;
}

let lastId = 0;

/** Meetings whose halves come to random servers, at random times within a few milliseconds of each other. */
export class Wave {
  readonly meetings: Meeting[] = [];
  readonly #random: Random;
  readonly #withinMs: number;
  readonly #perSecond: number;
  /** Each ends with all halves sent. */
  arrived: Promise<void> = Promise.resolve();

  private constructor({ random, withinMs = 5, perSecond }: WaveOptions) {
    this.#random = random;
    this.#withinMs = withinMs;
    this.#perSecond = perSecond;
  }

  /** Connects all sockets, then lets the halves arrive; resolves when they are on their way. */
  static async start(cluster: TestCluster, options: WaveOptions): Promise<Wave> {
    const wave = new Wave(options);
    const { random, sessions, halves = 2, servers = cluster.live } = options;
    // One cookie of each kind for all: the load must cost little.
    const pathOf = (side: 'user' | 'device') => servers[0]!.serve.path(side, 'ID');
    const [user, device] = [pathOf('user'), pathOf('device')];
    for (let i = 0; i < sessions; i++) {
      const meeting = new Meeting(`s${process.pid}-${++lastId}`);
      for (let n = 0; n < halves; n++) {
        const path = (n % 2 === 0 ? user : device).replace('id=ID', `id=${meeting.id}`);
        meeting.halves.push(new LoadHalf(meeting, `half-${n}`, random.pick(servers), path));
      }
      wave.meetings.push(meeting);
    }
    await until(
      () => wave.halves.every((half) => half.isConnected || half.isBroken),
      'all sockets are connected',
      20_000,
    );
    wave.arrived = wave.#arrive();
    return wave;
  }

  get halves(): LoadHalf[] {
    return this.meetings.flatMap(({ halves }) => halves);
  }

  #arrive(): Promise<void> {
    const due: { readonly atMs: number; readonly half: LoadHalf }[] = [];
    this.meetings.forEach((meeting, index) => {
      const atMs = (index * 1000) / this.#perSecond;
      for (const half of meeting.halves) due.push({ atMs: atMs + this.#random.next() * this.#withinMs, half });
    });
    due.sort((a, b) => a.atMs - b.atMs);
    const startMs = performance.now();
    let next = 0;
    return new Promise((resolve) => {
      const timer = setInterval(() => {
        const nowMs = performance.now() - startMs;
        while (next < due.length && due[next]!.atMs <= nowMs) due[next++]!.half.arrive();
        if (next < due.length) return;
        clearInterval(timer);
        resolve();
      }, 1);
    });
  }

  /** Waits until every half is greeted and has heard its mate, or is over. */
  async settled(withinMs: number): Promise<void> {
    await this.arrived;
    const open = () => this.halves.filter((half) => !half.isPaired && !half.isOver);
    await until(() => open().length === 0, 'every half is paired or refused', withinMs).catch(() => {
      const left = open();
      throw new Error(`${left.length} halves are neither paired nor refused: ${left[0]?.meeting.describe()}`);
    });
  }

  /** Nothing met twice and nobody heard another's mate. */
  checkExact(): void {
    const wrong = this.meetings.map((meeting) => meeting.wrong).filter((text) => text !== undefined);
    assert.deepEqual(wrong, []);
  }

  /** Those for which this holds have all met. */
  checkPaired(which: (meeting: Meeting) => boolean, what: string): void {
    const lost = this.meetings.filter((meeting) => which(meeting) && !meeting.isPaired);
    assert.equal(lost.length, 0, `${what}: ${lost.length} did not meet; ${lost[0]?.describe()}`);
  }

  /** Ends every session in order, and waits for the other side's goodbye. */
  async end(withinMs = 10_000): Promise<void> {
    for (const { halves } of this.meetings) halves.find((half) => half.isPaired && !half.isOver)?.close();
    const open = () => this.halves.filter((half) => half.isPaired && !half.isBroken);
    await until(() => open().length === 0, 'every session is over', withinMs).catch(() => {
      throw new Error(`${open().length} halves have not ended: ${open()[0]?.meeting.describe()}`);
    });
  }

  destroy(): void {
    for (const half of this.halves) half.destroy();
  }
}

/** The `share`th part of ordered values, as 0.5 for the median. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
