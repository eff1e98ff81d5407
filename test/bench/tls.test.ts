import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { buildTools, type Tools } from '../../bench/build.ts';
import type { LoadResult } from '../../bench/measure.ts';
import { faultless, runGenerator, withTestRelay } from './generator.ts';

let tools: Tools;
before(() => {
  tools = buildTools();
});

test('the generator delivers over TLS, also what no socket takes at once', { timeout: 30_000 }, async (t) => {
  if (tools.tls !== undefined) return t.skip(tools.tls);
  await withTestRelay({ tls: true }, async ({ port }) => {
    const loads = [
      { mode: 'pipeline', pairs: 4, 'in-flight': 64, 'message-bytes': 64 },
      { mode: 'pingpong', pairs: 8, 'in-flight': 1, 'message-bytes': 64 },
      // 30 MB under way: sockets are full, and records wait for room in them.
      { mode: 'pipeline', pairs: 2, 'in-flight': 150, 'message-bytes': 100_000 },
    ];
    for (const load of loads) {
      const options = { ...load, tls: true as const, warmup: 0, duration: 0.2 };
      const { messages } = faultless(await runGenerator<LoadResult>(tools.load, port, options));
      assert.ok(messages > 0);
    }
  });
});

test('pings are answered over TLS while records wait for room', { timeout: 30_000 }, async (t) => {
  if (tools.tls !== undefined) return t.skip(tools.tls);
  let pongs = 0;
  await withTestRelay(
    {
      tls: true,
      onPair: (user, _, __, greet) => {
        greet();
        user.on('pong', () => pongs++);
      },
      tamper: (message, n, from) => {
        if (n % 10 === 0) from.ping();
        return [message];
      },
    },
    async ({ port }) => {
      const load = { pairs: 2, 'in-flight': 100, 'message-bytes': 100_000, tls: true as const };
      faultless(await runGenerator<LoadResult>(tools.load, port, { ...load, warmup: 0, duration: 0.3 }));
    },
  );
  assert.ok(pongs > 0);
});

test('the generator notices over TLS what is lost, and an end', { timeout: 30_000 }, async (t) => {
  if (tools.tls !== undefined) return t.skip(tools.tls);
  const load = { pairs: 2, 'in-flight': 8, 'message-bytes': 64, warmup: 0, duration: 0.2, tls: true as const };
  await withTestRelay({ tls: true, tamper: (message, n) => (n === 20 ? [] : [message]) }, async ({ port }) => {
    const { result, status } = await runGenerator<LoadResult>(tools.load, port, load);
    assert.ok(status === 1 && result!.errors.order > 0, JSON.stringify(result));
  });
  const cut = {
    tls: true,
    tamper: (message: Buffer, n: number, from: { terminate(): void }) => {
      if (n === 20) from.terminate();
      return [message];
    },
  };
  await withTestRelay(cut, async ({ port }) => {
    const { result, status } = await runGenerator<LoadResult>(tools.load, port, load);
    assert.ok(status === 1 && result!.errors.closed > 0, JSON.stringify(result));
  });
});

test('without OpenSSL the generator is built all the same, says why, and refuses --tls', {
  timeout: 60_000,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'couplet-bench-'));
  const compiler = process.env.CC;
  try {
    const without = join(folder, 'cc');
    const complaint = 'transport.c:9:10: fatal error: openssl/ssl.h: No such file or directory';
    writeFileSync(
      without,
      `#!/bin/sh\ncase "$*" in *-lssl*) echo '${complaint}' >&2; exit 1;; esac\nexec ${compiler ?? 'cc'} "$@"\n`,
    );
    chmodSync(without, 0o755);
    process.env.CC = without;
    const plain = buildTools();
    assert.equal(plain.tls, `the load generator was built without OpenSSL: ${complaint}`);
    await withTestRelay({}, async ({ port }) => {
      const load = { pairs: 1, 'message-bytes': 64, warmup: 0, duration: 0.1 };
      faultless(await runGenerator<LoadResult>(plain.load, port, load));
      for (const program of [plain.load, plain.setup, plain.idle, plain.stamp]) {
        const { status, stderr, result } = await runGenerator(program, port, { tls: true });
        assert.deepEqual([status, result], [2, undefined]);
        assert.equal(stderr, 'load: --tls: this program was built without OpenSSL\n');
      }
    });
  } finally {
    if (compiler === undefined) delete process.env.CC;
    else process.env.CC = compiler;
    rmSync(folder, { recursive: true });
  }
});
