import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash, randomInt } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { buildTools } from '../../bench/build.ts';
import { type RelayProcess, startRelay } from '../../bench/peers/peer.ts';
import {
  clientFrame,
  connectRaw,
  knownAccept,
  type Random,
  seededRandom,
  serverFrame,
  upgradeRequest,
  write,
} from './raw-half.ts';

const greeting = serverFrame(0x81, Buffer.from('c'));
let floor: RelayProcess;

before(async () => {
  floor = await startRelay(undefined, [buildTools().floor]);
});
after(() => floor.stop());

/** Resolves with the answer to the upgrade and then the first `length` bytes after it; rejects when the stream ends early. */
function collect(socket: Socket, length: number, onData: () => void = () => undefined): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let all = Buffer.alloc(0);
    let answerLength = -1;
    const chunks: Buffer[] = [];
    let got = 0;
    socket.on('data', (chunk: Buffer) => {
      let rest = chunk;
      if (answerLength < 0) {
        all = Buffer.concat([all, chunk]);
        const end = all.indexOf('\r\n\r\n');
        if (end < 0) return;
        answerLength = end + 4;
        const answer = all.toString('latin1', 0, end);
        if (!answer.startsWith('HTTP/1.1 101 ') || !answer.includes(knownAccept)) reject(new Error(answer));
        rest = all.subarray(answerLength);
      }
      chunks.push(rest);
      got += rest.length;
      onData();
      if (got >= length) resolve(Buffer.concat(chunks));
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`ended after ${got} of ${length} bytes`)));
  });
}

interface Script {
  readonly sent: Buffer;
  /** What the mate must receive, the greeting included. */
  readonly delivered: Buffer;
}

/** Random frames: texts, binary messages in one or more frames, pings between fragments, empty ones. */
function randomScript(random: Random, messages: number): Script {
  const sent: Buffer[] = [];
  const delivered: Buffer[] = [greeting];
  const add = (first: number, length: number): void => {
    const payload = Buffer.alloc(length, 0).map(() => random(256));
    sent.push(clientFrame(first, payload, Buffer.from([random(256), random(256), random(256), random(256)])));
    delivered.push(serverFrame(first, payload));
  };
  const limits = [1, 20, 130, 130, 1000, 70_000];
  const size = (): number => random(limits[random(limits.length)]!);
  for (let i = 0; i < messages; i++) {
    const opcode = 1 + random(2);
    const fragments = random(4) === 0 ? 1 + random(3) : 0;
    for (let j = 0; j < fragments; j++) {
      add(j === 0 ? opcode : 0, size());
      if (random(3) === 0) add(0x89, random(126));
    }
    add(0x80 | (fragments === 0 ? opcode : 0), size());
  }
  return { sent: Buffer.concat(sent), delivered: Buffer.concat(delivered) };
}

async function writeInPieces(socket: Socket, data: Buffer, random: Random): Promise<void> {
  for (let at = 0; at < data.length; ) {
    const piece = 1 + random([3, 30, 300, 3000, 60_000][random(5)]!);
    await write(socket, data.subarray(at, at + piece));
    at += piece;
  }
}

/** Stops reading now and then, so that the floor's sockets fill. */
function readHaltingly(socket: Socket, random: Random): () => void {
  return () => {
    if (random(10) > 0) return;
    socket.pause();
    let turns = random(200);
    const wait = (): unknown => (turns-- > 0 ? setImmediate(wait) : socket.resume());
    wait();
  };
}

test('the floor rewrites frames the same however they are cut into reads', () => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-bench-'));
  try {
    const source = fileURLToPath(new URL('./frame-splits.c', import.meta.url));
    const program = join(folder, 'frame-splits');
    const flags = ['-std=gnu11', '-O1', '-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'];
    const build = spawnSync('cc', [...flags, '-o', program, source], { encoding: 'utf8' });
    assert.equal(build.status, 0, build.stderr);
    const run = spawnSync(program, { encoding: 'utf8' });
    assert.equal(run.status, 0, run.stderr);
    assert.equal(run.stdout, 'ok\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the floor loses and reorders nothing on random frame splits', { timeout: 30_000 }, async (t) => {
  const seed = Number(process.env.COUPLET_TEST_SEED ?? randomInt(2 ** 31));
  t.diagnostic(`seed ${seed}`);
  const random = seededRandom(seed);
  for (let round = 0; round < 3; round++) {
    const [first, second] = [await connectRaw(floor.port), await connectRaw(floor.port)];
    const scripts = [randomScript(random, 150), randomScript(random, 150)] as const;
    const received = [
      collect(first, scripts[1].delivered.length, readHaltingly(first, random)),
      collect(second, scripts[0].delivered.length, readHaltingly(second, random)),
    ];
    // What the first half sends right behind its request arrives before there is a mate.
    const request = upgradeRequest(`/meshrelay.ashx?x=1&id=round-${round}`);
    const early = random(2000);
    await write(first, Buffer.concat([request, scripts[0].sent.subarray(0, early)]));
    const sending = writeInPieces(first, scripts[0].sent.subarray(early), random);
    const cut = random(request.length);
    await write(second, request.subarray(0, cut));
    await write(second, request.subarray(cut));
    await Promise.all([sending, writeInPieces(second, scripts[1].sent, random)]);
    const [atFirst, atSecond] = await Promise.all(received);
    assert.ok(atFirst!.equals(scripts[1].delivered), `round ${round}: second to first differs`);
    assert.ok(atSecond!.equals(scripts[0].delivered), `round ${round}: first to second differs`);
    first.destroy();
    second.destroy();
  }
});

test('the floor stops reading senders whose mates do not read, both ways, and then delivers all', {
  timeout: 30_000,
}, async () => {
  const count = 60;
  const payload = Buffer.alloc(1024 * 1024, 'couplet');
  const frame = serverFrame(0x82, payload);
  const masked = clientFrame(0x82, payload, Buffer.from([1, 2, 3, 4]));
  const halves = [await connectRaw(floor.port), await connectRaw(floor.port)];
  const received = halves.map((half) => collect(half, greeting.length + count * frame.length));
  for (const half of halves) {
    half.pause();
    await write(half, upgradeRequest('/meshrelay.ashx?id=stalled'));
  }

  // Stalled: the kernel has taken nothing from either sender for a while. Only then the halves read.
  let accepted = 0;
  let acceptedWhenStalled = 0;
  const stalled = setTimeout(() => {
    acceptedWhenStalled = accepted;
    for (const half of halves) half.resume();
  }, 300);
  const sending = halves.map(async (half) => {
    for (let i = 0; i < count; i++) {
      await write(half, masked);
      accepted++;
      if (acceptedWhenStalled === 0) stalled.refresh();
    }
  });
  await Promise.all(sending);
  clearTimeout(stalled);
  const expected = createHash('sha256').update(greeting);
  for (let i = 0; i < count; i++) expected.update(frame);
  const digest = expected.digest('hex');
  for (const stream of await Promise.all(received)) {
    assert.equal(createHash('sha256').update(stream).digest('hex'), digest);
  }
  assert.ok(acceptedWhenStalled > 0 && acceptedWhenStalled < count, `${acceptedWhenStalled} MiB taken while stalled`);
  const peakKiB = Number(/^VmHWM:\s*(\d+) kB/m.exec(readFileSync(`/proc/${floor.pid}/status`, 'utf8'))?.[1]);
  assert.ok(peakKiB < 8 * 1024, `the floor grew to ${peakKiB} KiB`);
  for (const half of halves) half.destroy();
});
