// Bytes that a claim costs Redis: starts a redis-server of its own on a Unix socket, writes 100,000 claims of the shape
// that servers write (hashed id in the key, a sealed value, a time to live) and prints what its memory grew by.
import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const claims = 100_000;
const folder = mkdtempSync(join(tmpdir(), 'couplet-redis-'));
const socket = join(folder, 'redis.sock');
const args = ['--port', '0', '--unixsocket', socket, '--save', '', '--dir', folder];
const server = spawn('redis-server', args, { stdio: 'ignore' });
const redis = (command, input) => execFileSync('redis-cli', ['-s', socket, ...command], { input }).toString();
const usedBytes = () => Number(/^used_memory:(\d+)/m.exec(redis(['info', 'memory']))[1]);
// A boot id of 128 bits and a fence, under AES-256-GCM (12 bytes of IV, 16 of tag), in base64.
const sealedBytes = 28 + JSON.stringify({ boot: 'x'.repeat(22), fence: 12_345_678 }).length;

try {
  while (!existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 10));
  const before = usedBytes();
  const lines = Array.from({ length: claims }, () => {
    const key = `couplet:claim:${createHash('sha256').update(randomBytes(16)).digest('base64url')}`;
    return `SET ${key} ${randomBytes(sealedBytes).toString('base64')} PX 600000\n`;
  });
  redis(['--pipe'], lines.join(''));
  const bytes = usedBytes() - before;
  console.log(JSON.stringify({ claims, usedBytes: bytes, bytesPerClaim: Math.round(bytes / claims) }));
} finally {
  server.kill('SIGTERM');
  await new Promise((resolve) => server.once('exit', resolve));
  rmSync(folder, { recursive: true, force: true });
}
