// Kernel memory of an idle TCP connection's end: opens 8,000 connections to itself, 16,000 sockets, and prints what the
// kernel's slabs grew by for each. Nothing else should run meanwhile.
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';

const connections = 8_000;
const slabBytes = () => Number(/^Slab:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))[1]) * 1024;
const accepted = [];
const server = createServer((socket) => accepted.push(socket)).listen(0, '127.0.0.1');
await new Promise((resolve) => server.once('listening', resolve));
const open = () =>
  new Promise((resolve, reject) => {
    const socket = connect(server.address().port, '127.0.0.1', () => resolve(socket)).once('error', reject);
  });
const before = slabBytes();
const opened = [];
while (opened.length < connections) opened.push(...(await Promise.all(Array.from({ length: 100 }, open))));
while (accepted.length < connections) await new Promise((resolve) => setTimeout(resolve, 10));
const sockets = opened.length + accepted.length;
console.log(JSON.stringify({ sockets, slabBytesPerSocket: Math.round((slabBytes() - before) / sockets) }));
process.exit(0);
