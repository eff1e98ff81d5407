import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

/*
 * Who may import whom, and the fences around libraries and globals, as the house's directions say. A part imports
 * itself and parts on lower levels; parts on one level do not import each other.
 */
const levels: Readonly<Record<string, number>> = {
  core: 0,
  native: 1,
  protocol: 1,
  config: 1,
  relay: 2,
  auth: 2,
  directory: 2,
  recording: 2,
  audit: 2,
  metrics: 2,
  routing: 3,
  cluster: 3,
  server: 4,
  api: 4,
  clients: 4,
  compose: 5,
  index: 6,
  cli: 6,
  main: 7,
};

/** Parts that may import less than their level allows. */
const only: Readonly<Record<string, readonly string[]>> = { clients: ['protocol', 'core'] };

interface Fence {
  readonly what: string;
  readonly pattern: RegExp;
  /** A file's path from `src/`, or its beginning. */
  readonly allowed: readonly string[];
}

/** Matched against the module names that a file imports. */
const moduleFences: readonly Fence[] = [
  { what: 'uWebSockets.js', pattern: /^uWebSockets\.js(\/|$)/i, allowed: ['server/'] },
  { what: 'prom-client', pattern: /^prom-client(\/|$)/, allowed: ['metrics/'] },
  { what: 'an SQL library', pattern: /^(better-sqlite3|kysely|pg|node:sqlite)(\/|$)/, allowed: ['directory/'] },
  { what: 'a Redis library', pattern: /^(redis|ioredis|@redis\/.*)$/, allowed: ['cluster/'] },
];

/** Matched against a file's text without its comments. */
const textFences: readonly Fence[] = [
  { what: 'a .node file', pattern: /\.node['"`]/, allowed: ['native/binding.ts'] },
  {
    what: 'process.env',
    pattern: /\bprocess\s*\??\.\s*env\b|\bprocess\[|[{,]\s*env\b[^}]*\}\s*(=\s*process\b|from 'node:process')/,
    allowed: ['config/'],
  },
  {
    what: 'the wall clock',
    pattern:
      /\bDate\s*\.\s*now\b|\bnew\s+Date\s*(\(\s*\)|(?!\s*\())|(?<!new\s+)\bDate\s*\(|\bperformance\s*\.\s*now\b|\bhrtime\b/,
    allowed: ['core/clock.ts'],
  },
];

const maxLines = 400;

/** What a file imports, by any form of import or re-export, types too. */
function importsOf(text: string): string[] {
  const forms = [
    /\b(?:import|export)\s[^'"`;]*?\bfrom\s*(['"])(.+?)\1/g,
    /\bimport\s*(['"])(.+?)\1/g,
    /\b(?:import|require|createRequire\([^)]*\))\s*\(\s*(['"`])(.+?)\1/g,
  ];
  return forms.flatMap((form) => Array.from(text.matchAll(form), (match) => match[2]!));
}

/** Drops comments that begin a line or stand behind a space; a `//` inside a URL stays. */
function withoutComments(text: string): string {
  return text.replaceAll(/(^|\s)\/\*[\s\S]*?\*\//g, '$1').replaceAll(/(^|\s)\/\/.*$/gm, '$1');
}

function partOf(file: string): string {
  return file.includes('/') ? file.slice(0, file.indexOf('/')) : posix.basename(file, '.ts');
}

function mayImport(from: string, to: string): boolean {
  if (from === to) return true;
  const allowed = only[from];
  if (allowed !== undefined) return allowed.includes(to);
  return levels[to]! < levels[from]!;
}

/** Every breach of the house's directions in one source file. `file` is its path from `src/`. */
function breaches(file: string, text: string): string[] {
  const found: string[] = [];
  const from = partOf(file);
  if (!(from in levels)) found.push(`${file}: the house has no part ${from}`);
  const code = withoutComments(text);
  for (const name of importsOf(code)) {
    for (const { what, pattern, allowed } of moduleFences) {
      if (pattern.test(name) && !allowed.some((place) => file.startsWith(place))) {
        found.push(`${file}: imports ${what}, allowed only in ${allowed.join(', ')}`);
      }
    }
    // An addon's file is the text fences' matter.
    if (!name.startsWith('.') || name.endsWith('.node')) continue;
    const target = posix.normalize(posix.join(posix.dirname(file), name));
    // package.json and the like, outside src/, hold no code.
    if (target.startsWith('../') && !/\.(ts|js|mjs|cjs)$/.test(target)) continue;
    const to = partOf(target);
    if (!(to in levels)) found.push(`${file}: imports ${name}, which is no part of the house`);
    else if (from in levels && !mayImport(from, to)) found.push(`${file}: ${from} must not import ${to} (${name})`);
  }
  for (const { what, pattern, allowed } of textFences) {
    if (pattern.test(code) && !allowed.some((place) => file.startsWith(place))) {
      found.push(`${file}: uses ${what}, allowed only in ${allowed.join(', ')}`);
    }
  }
  return found;
}

function tooLong(file: string, text: string): string[] {
  const lines = text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
  return lines > maxLines ? [`${file}: ${lines} lines, at most ${maxLines}`] : [];
}

const root = fileURLToPath(new URL('..', import.meta.url));

function filesIn(folder: string, ending: RegExp): { file: string; text: string }[] {
  return readdirSync(posix.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => ending.test(file) && !/(^|\/)(node_modules|build)\//.test(file))
    .sort()
    .map((file) => ({ file, text: readFileSync(posix.join(root, folder, file), 'utf8') }));
}

test('every file in src/ keeps to the levels and fences of the house', () => {
  const sources = filesIn('src', /\.ts$/);
  assert.ok(sources.length > 20, 'the sources are found');
  assert.deepEqual(
    sources.flatMap(({ file, text }) => breaches(file, text)),
    [],
  );
});

test('no file in src/ or native/ is longer than 400 lines', () => {
  const files = [...filesIn('src', /\.ts$/), ...filesIn('native', /\.(cc|h|c|cpp)$/)];
  assert.deepEqual(
    files.flatMap(({ file, text }) => tooLong(file, text)),
    [],
  );
});

const planted: readonly [file: string, text: string][] = [
  ['relay/x.ts', "import { a } from '../server/app.ts';"],
  ['relay/x.ts', "import type { a } from '../audit/events.ts';"],
  ['relay/x.ts', "import {\n  a,\n  type b,\n} from '../audit/events.ts';"],
  ['relay/x.ts', "export { a } from '../auth/cookie.ts';"],
  ['relay/x.ts', "export * from '../auth/cookie.ts';"],
  ['relay/x.ts', "const a = await import('../auth/cookie.ts');"],
  ['relay/x.ts', "import '../auth/cookie.ts';"],
  ['relay/x.ts', "type A = import('../auth/cookie.ts').A;"],
  ['relay/x.ts', "import type { WebSocket } from 'uWebSockets.js';"],
  ['relay/x.ts', "import { parse } from '../../bench/load/parse.ts';"],
  ['core/x.ts', "import { a } from '../protocol/paths.ts';"],
  ['protocol/x.ts', "import { a } from '../native/binding.ts';"],
  ['config/x.ts', "import { a } from '../protocol/paths.ts';"],
  ['server/x.ts', "import { a } from '../api/users.ts';"],
  ['server/x.ts', "import { a } from '../compose.ts';"],
  ['compose.ts', "import { a } from './cli/serve.ts';"],
  ['index.ts', "import { a } from './main.ts';"],
  ['clients/x.ts', "import { a } from '../relay/half.ts';"],
  ['clients/x.ts', "import { a } from '../config/load.ts';"],
  ['server/x.ts', "import { a } from '../clients/connect.ts';"],
  ['server/x.ts', "import { Gauge } from 'prom-client';"],
  ['server/x.ts', "import sqlite from 'better-sqlite3';"],
  ['server/x.ts', "import { createClient } from 'redis';"],
  ['server/x.ts', "const a = require('../build/Release/couplet.node');"],
  ['native/usockets.ts', "const a = createRequire(import.meta.url)('../build/Release/couplet.node');"],
  ['server/x.ts', 'const level = process.env.LEVEL;'],
  ['server/x.ts', "const level = process['env'].LEVEL;"],
  ['server/x.ts', 'const { env } = process;'],
  ['server/x.ts', "import { env } from 'node:process';"],
  ['audit/x.ts', 'const t = Date.now();'],
  ['audit/x.ts', 'const t = new Date();'],
  ['audit/x.ts', 'const t = new Date;'],
  ['audit/x.ts', 'const t = Date();'],
  ['audit/x.ts', 'const t = performance.now();'],
  ['audit/x.ts', 'const t = process.hrtime.bigint();'],
  ['helpers/x.ts', ''],
  ['stray.ts', ''],
];

for (const [file, text] of planted) {
  test(`a planted breach is found: ${file || '-'}: ${JSON.stringify(text)}`, () => {
    assert.equal(breaches(file, text).length, 1, String(breaches(file, text)));
  });
}

const clean: readonly [file: string, text: string][] = [
  ['relay/x.ts', "import { a } from './half.ts';\nimport { b } from '../core/ids.ts';\nimport 'node:fs';"],
  ['relay/x.ts', '// never Date.now() here\n/* process.env */\nconst url = "http://x//y";'],
  ['relay/x.ts', 'const when = new Date(clock.nowMs());\nfunction toDate(d: Date): Date { return d; }'],
  ['server/x.ts', "import { App } from 'uWebSockets.js';"],
  ['cli/x.ts', "import { a } from '../compose.ts';\nimport { b } from '../clients/connect.ts';"],
  ['index.ts', "export { a } from './compose.ts';"],
  ['cli/x.ts', "import info from '../../package.json' with { type: 'json' };"],
  ['config/x.ts', 'const a = process.env.A;'],
  ['clients/x.ts', "import { a } from '../protocol/paths.ts';\nimport { b } from 'ws';"],
  ['native/binding.ts', "const a = require('../../build/Release/couplet.node');"],
];

for (const [file, text] of clean) {
  test(`no breach is seen where there is none: ${file}: ${JSON.stringify(text)}`, () => {
    assert.deepEqual(breaches(file, text), []);
  });
}

test('a planted long file is found', () => {
  assert.deepEqual(tooLong('x.ts', 'a\n'.repeat(400)), []);
  assert.equal(tooLong('x.ts', 'a\n'.repeat(401)).length, 1);
});
