import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { desktopCommands } from '../../src/recording/desktop-commands.ts';
import { DesktopScreen } from '../../src/recording/desktop-screen.ts';
import { pictureSize } from '../../src/recording/image-size.ts';
import { copy, jumbo, PixelPlayer, picture, screenSize, tile } from './desktop-player.ts';

const width = 150;
const height = 100;
/** Aligned to cells as well as not, in and beyond the screen. */
const coordinate = fc.oneof(fc.constantFrom(0, 1, 2, 31, 32, 33, 63, 64, 65, 128), fc.integer({ min: 0, max: 170 }));
const extent = fc.oneof(fc.constantFrom(1, 2, 3, 31, 32, 33, 64, 128, width), fc.integer({ min: 1, max: 180 }));
const anyTile = fc.tuple(coordinate, coordinate, extent, extent, fc.nat(1000)).map((fields) => tile(...fields));
const anyCopy = fc.tuple(coordinate, coordinate, coordinate, coordinate, extent, extent).map((f) => copy(...f));
const scroll = fc.constantFrom(copy(0, 16, 0, 0, width, 84), copy(0, 0, 0, 10, width, 90), copy(8, 8, 9, 9, 60, 60));
const anySize = fc.oneof(
  fc.constant(screenSize(width, height)),
  fc.tuple(fc.integer({ min: 1, max: 170 }), fc.integer({ min: 1, max: 120 })).map((size) => screenSize(...size)),
);
const anyCommand = fc.oneof(
  { weight: 12, arbitrary: anyTile },
  { weight: 3, arbitrary: anyCopy },
  { weight: 3, arbitrary: scroll },
  { weight: 1, arbitrary: anySize },
  { weight: 2, arbitrary: anyTile.map((inner) => jumbo(inner)) },
  { weight: 1, arbitrary: fc.constant(Buffer.from('000b000500', 'hex')) },
);
const anyBlock = fc.array(anyCommand, { minLength: 1, maxLength: 4 }).map((commands) => Buffer.concat(commands));

test('[M7] the blocks of a screen are those that its pixels need, and drawn in order they are the screen', () => {
  fc.assert(
    fc.property(fc.array(anyBlock, { minLength: 1, maxLength: 25 }), (drawn) => {
      const blocks = [screenSize(width, height), ...drawn];
      const screen = new DesktopScreen();
      const player = new PixelPlayer();
      for (const [n, data] of blocks.entries()) {
        screen.feed(n, data);
        player.play(n, data);
      }
      const named = screen.blocks()!;
      assert.deepEqual(named, player.needed());
      const again = new PixelPlayer();
      again.resize(screen.width, screen.height);
      for (const n of named) again.play(n, blocks[n]!);
      assert.deepEqual([again.width, again.height], [player.width, player.height]);
      assert.deepEqual(again.values(), player.values());
    }),
    { numRuns: 300 },
  );
});

test('[M7] scrolling drops the lines that have left the screen', () => {
  const screen = new DesktopScreen();
  screen.feed(0, screenSize(640, 480));
  for (let n = 1; n <= 5000; n++) {
    screen.feed(n, Buffer.concat([copy(0, 16, 0, 0, 640, 464), tile(0, 464, 640, 16, n)]));
  }
  assert.deepEqual(
    screen.blocks(),
    Array.from({ length: 30 }, (_, n) => 4971 + n),
  );
});

test('[M7] a block that is not understood stays until the screen is empty or drawn over', () => {
  const strange = [
    Buffer.concat([tile(0, 0, 10, 10), Buffer.from('0003000000000000', 'hex')]),
    Buffer.concat([tile(0, 0, 10, 10), Buffer.from('00030fff00000000', 'hex')]),
    Buffer.concat([tile(0, 0, 10, 10).subarray(0, 8), Buffer.alloc(18, 7)]),
    jumbo(tile(0, 0, 10, 10), 0, 99),
    jumbo(tile(0, 0, 10, 10), 0, 3),
    jumbo(jumbo(tile(0, 0, 10, 10)), 8),
    Buffer.from('001b0008', 'hex'),
    Buffer.from('000300060000', 'hex'),
    Buffer.from('0004000400070004', 'hex'),
  ];
  for (const data of strange) {
    const screen = new DesktopScreen();
    screen.feed(1, screenSize(100, 100));
    screen.feed(2, data);
    screen.feed(3, tile(0, 0, 50, 100));
    assert.deepEqual(screen.blocks(), [2, 3], data.toString('hex'));
    screen.feed(4, tile(0, 0, 100, 100));
    assert.deepEqual(screen.blocks(), [4], data.toString('hex'));
    screen.feed(5, data);
    screen.feed(6, screenSize(100, 100));
    assert.deepEqual(screen.blocks(), []);
  }
});

test('[M10] hostile commands cost bounded time and memory, and the screen is known again once it is drawn anew', (t) => {
  const large = screenSize(0xffff, 0xffff);
  const whole = tile(0, 0, 0xffff, 0xffff);
  const confetti = Array.from({ length: 30_000 }, (_, n) => tile((n * 7919) % 60_000, (n * 104_729) % 60_000, 3, 3));
  const repeated = (bytes: Buffer, count: number) => Buffer.concat(Array<Buffer>(count).fill(bytes));
  const cases: Record<string, Buffer> = {
    'whole screens': repeated(whole, 20_000),
    'whole copies': Buffer.concat([whole, repeated(copy(0, 0, 1, 1, 0xffff, 0xffff), 60_000)]),
    'copies of confetti': Buffer.concat([...confetti, repeated(copy(0, 0, 3, 5, 0xffff, 0xffff), 60_000)]),
    'copies of single pixels': Buffer.concat([whole, repeated(copy(5, 5, 6, 6, 1, 1), 60_000)]),
    'screen sizes': repeated(large, 200_000),
    'nothing understood': repeated(Buffer.from('00030004', 'hex'), 500_000),
  };
  for (const [name, data] of Object.entries(cases)) {
    const screen = new DesktopScreen();
    screen.feed(0, large);
    const started = process.cpuUsage();
    const before = process.memoryUsage().heapUsed;
    for (let n = 1; n <= 4; n++) screen.feed(n, data);
    const cpu = process.cpuUsage(started);
    const cpuMs = (cpu.user + cpu.system) / 1000;
    const heapBytes = process.memoryUsage().heapUsed - before;
    t.diagnostic(`${name}: ${cpuMs.toFixed(0)} ms, ${(heapBytes / 1e6).toFixed(0)} MB, ${data.length * 4} bytes`);
    assert.ok(cpuMs < 15_000, `${name}: ${cpuMs} ms`);
    assert.ok(heapBytes < 300e6, `${name}: ${heapBytes} bytes`);
    screen.feed(9, Buffer.concat([screenSize(100, 100), tile(0, 0, 10, 10)]));
    assert.deepEqual(screen.blocks(), [9], name);
  }
});

test('[M10] a block of which not all is there makes the screen unknown, until it is drawn anew', () => {
  const screen = new DesktopScreen();
  screen.feed(0, screenSize(100, 100));
  screen.feed(1, tile(0, 0, 10, 10), false);
  assert.equal(screen.blocks(), undefined);
  screen.feed(2, tile(0, 0, 50, 100));
  screen.feed(3, copy(0, 0, 9, 9, 50, 50));
  assert.equal(screen.blocks(), undefined);
  screen.feed(4, tile(0, 0, 200, 200));
  assert.deepEqual(screen.blocks(), [4]);
});

test('[M10] any bytes as commands and as pictures: an answer, and none that is not a size', () => {
  const start = fc.constantFrom(
    'ffd8',
    'ffd8ffe00010',
    '89504e470d0a1a0a0000000d49484452',
    '52494646000000005745425056503820',
  );
  const bytes = fc
    .tuple(start, fc.uint8Array({ maxLength: 80 }))
    .map(([head, tail]) => Buffer.concat([Buffer.from(head, 'hex'), tail]));
  fc.assert(
    fc.property(bytes, (data) => {
      const size = pictureSize(data);
      assert.ok(size === undefined || (size.width > 0 && size.height > 0));
      const screen = new DesktopScreen();
      screen.feed(0, screenSize(50, 50));
      screen.feed(1, data);
      screen.feed(2, Buffer.concat([Buffer.from([0, 3, 0, data.length + 8, 0, 0, 0, 0]), data]));
      assert.ok([...desktopCommands(data)].length <= data.length / 4 + 1);
      assert.ok(screen.blocks()!.every((block) => block <= 2));
    }),
    { numRuns: 2000 },
  );
});

test('[M7] the size of JPEG, PNG and WebP pictures', () => {
  const jpeg = picture(640, 480);
  const behindOthers = Buffer.concat([
    jpeg.subarray(0, 2),
    Buffer.from('ffe000104a46494600010100000100010000', 'hex'),
    Buffer.from('ffffffc4000500ffd8', 'hex'),
    jpeg.subarray(2),
  ]);
  const progressive = Buffer.from(jpeg);
  progressive[3] = 0xc2;
  const webp = (kind: string, rest: string) =>
    Buffer.concat([Buffer.from(`RIFF....WEBP${kind}....`), Buffer.from(rest.padEnd(40, '0'), 'hex')]);
  const known: [string, Buffer, number, number][] = [
    ['JPEG', jpeg, 640, 480],
    ['JPEG with other segments', behindOthers, 640, 480],
    ['progressive JPEG', progressive, 640, 480],
    ['PNG', Buffer.from('89504e470d0a1a0a0000000d4948445200000280000001e00802', 'hex'), 640, 480],
    ['lossy WebP', webp('VP8 ', '3001009d012a8002e001'), 640, 480],
    ['lossless WebP', webp('VP8L', '2f7fc27700'), 640, 480],
    ['extended WebP', webp('VP8X', '000000007f0200df0100'), 640, 480],
  ];
  for (const [name, bytes, width, height] of known) assert.deepEqual(pictureSize(bytes), { width, height }, name);
  const unknown = [
    '',
    'ffd8',
    'ffd8ffd9',
    'ffd8ffda0004',
    'ffd8ffe00001',
    '424d',
    jpeg.subarray(0, 10).toString('hex'),
  ];
  for (const hex of unknown) assert.equal(pictureSize(Buffer.from(hex, 'hex')), undefined, hex);
  assert.equal(pictureSize(picture(0, 5)), undefined);
});
