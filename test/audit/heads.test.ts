import assert from 'node:assert/strict';
import fs, { mkdir, readdir } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import test from 'node:test';
import { createChainKey } from '../../src/audit/hash-chain.ts';
import { noteHeads, readHeads } from '../../src/audit/heads.ts';
import { eventsFolder, key } from './support.ts';

const chainKey = createChainKey(key);
const head = (file: number, line: number) => ({ file, line, mac: 'ab'.repeat(32), closed: false });

test('[R31] heads noted by many at once are all kept, and one version remains', async (t) => {
  const folder = await eventsFolder(t);
  await mkdir(folder, { recursive: true });
  await noteHeads(folder, chainKey, []);
  const writers = Array.from({ length: 12 }, async (_, i) => {
    for (let line = 1; line <= 12; line++) {
      const found = await noteHeads(folder, chainKey, [head(i + 1, line)]);
      assert.equal(found.state, 'valid');
      const now = await readHeads(folder, [chainKey]);
      assert.equal(now.heads.find(({ file }) => file === i + 1)?.line, line, 'no noted head is lost');
    }
  });
  await Promise.all(writers);
  const { heads } = await readHeads(folder, [chainKey]);
  assert.deepEqual(
    heads.map(({ file, line }) => [file, line]),
    Array.from({ length: 12 }, (_, i) => [12 - i, 12]),
  );
  assert.equal((await readdir(folder)).length, 1);
});

test('[R31] a process that was slow while others went two versions ahead loses nothing', async (t) => {
  const folder = await eventsFolder(t);
  await mkdir(folder, { recursive: true });
  await noteHeads(folder, chainKey, []);
  const { link } = fs;
  const restore = () => {
    fs.link = link;
    syncBuiltinESMExports();
  };
  t.after(restore);
  let overtaken = false;
  fs.link = async (from, to) => {
    restore();
    await noteHeads(folder, chainKey, [head(2, 1)]);
    await noteHeads(folder, chainKey, [head(2, 2)]);
    overtaken = true;
    await link(from, to);
  };
  syncBuiltinESMExports();
  await noteHeads(folder, chainKey, [head(1, 5)]);
  assert.ok(overtaken);
  assert.deepEqual((await readHeads(folder, [chainKey])).heads, [head(2, 2), head(1, 5)]);
  assert.equal((await readdir(folder)).length, 1);
});

test('[R31] a head is never lowered, and only the newest 256 files are kept', async (t) => {
  const folder = await eventsFolder(t);
  await mkdir(folder, { recursive: true });
  await noteHeads(folder, chainKey, [head(1, 9)]);
  await noteHeads(folder, chainKey, [head(1, 3)]);
  assert.deepEqual((await readHeads(folder, [chainKey])).heads, [head(1, 9)]);
  await noteHeads(
    folder,
    chainKey,
    Array.from({ length: 300 }, (_, i) => head(i + 1, 1)),
  );
  const { heads } = await readHeads(folder, [chainKey]);
  assert.deepEqual([heads.length, heads[0]?.file, heads.at(-1)?.file], [256, 300, 45]);
});
