import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasTerminals, PseudoTerminal } from '../../../src/clients/agent/pseudo-terminal.ts';
import { missing } from '../../support/services.ts';

const size = { cols: 80, rows: 24 };

for (const [reader, maxBytes] of [
  ['reads', 40_000],
  // No more than the kernel keeps: the process ends while nobody reads.
  ['rests from the start', 8000],
  ['rests after each piece', 40_000],
] as const) {
  test(`[T11] the output of a process that ends at once arrives whole where the reader ${reader}`, async (t) => {
    if (!(await hasTerminals())) return missing(t, 'node-pty is not installed');
    const rounds = 40;
    for (let round = 1; round <= rounds; round++) {
      const bytes = (maxBytes / rounds) * round;
      let seen = 0;
      const script = `head -c ${bytes} /dev/zero | tr '\\0' x`;
      const terminal = await PseudoTerminal.start({ shell: '/bin/sh', args: ['-c', script] }, size, (data) => {
        seen += data.length;
        if (reader !== 'rests after each piece') return;
        terminal.pause();
        setImmediate(() => terminal.resume());
      });
      if (reader === 'rests from the start') terminal.pause();
      await terminal.ended;
      assert.equal(seen, bytes, `round ${round}`);
    }
  });
}

test('[T11] a process that stays behind and writes without end does not hold the end of its terminal', async (t) => {
  if (!(await hasTerminals())) return missing(t, 'node-pty is not installed');
  let pid = '';
  const script = 'setsid sh -c "echo pid=$$; exec yes" & sleep 0.2';
  const terminal = await PseudoTerminal.start({ shell: '/bin/sh', args: ['-c', script] }, size, (data) => {
    pid ||= /pid=(\d+)/.exec(String(data))?.[1] ?? '';
  });
  await terminal.ended;
  assert.notEqual(pid, '');
});
