import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument } from 'yaml';
import { ConfigError, knownKeys, notAllowed, shown, unknownName } from './errors.ts';
import { type Setting, settings, settingsByKey } from './schema.ts';
import { checkTable, isPlainObject } from './tables.ts';

/** Settings given in one place, by key path, with the words that tell an operator where. */
export type Layer = Map<string, { readonly value: unknown; readonly source: string }>;

export type Environment = Readonly<Record<string, string | undefined>>;

/** Texts of flags by the key path of their setting. */
export type FlagValues = Readonly<Record<string, string>>;

/**
 * Reads a configuration file, YAML or JSON. A group without content (`relay:`) counts as empty.
 * @throws ConfigError where the file cannot be read or parsed; the text of the file is never quoted
 */
export function fileLayer(file: string, problems: string[]): Layer {
  const layer: Layer = new Map();
  const content = parseFile(file);
  if (content === null) return layer;
  if (!isPlainObject(content)) throw new ConfigError([`config file ${shown(file)} must hold a map of settings`]);
  walk(content, '', `file ${file}`, layer, problems);
  return layer;
}

/** Settings as an object of the file's shape, from a program that uses Couplet as a library. */
export function objectLayer(content: object, problems: string[]): Layer {
  const layer: Layer = new Map();
  walk(content, '', 'option', layer, problems);
  return layer;
}

function parseFile(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new ConfigError([`config file ${shown(file)} cannot be read: ${errorCode(cause)}`], cause);
  }
  const lines = new LineCounter();
  // JSON is read as the YAML it also is: one parser, duplicate keys found, positions told.
  const document = parseDocument(text, { prettyErrors: false, lineCounter: lines });
  const fault = document.errors[0] ?? document.warnings[0];
  if (fault !== undefined) {
    // The parser's message may quote the file, which may hold the login key: only its code and place are told.
    const { line, col } = lines.linePos(fault.pos[0]);
    throw new ConfigError([
      `config file ${shown(file)} is not YAML or JSON: ${fault.code} at line ${line}, column ${col}`,
    ]);
  }
  try {
    return document.toJS();
  } catch {
    throw new ConfigError([`config file ${shown(file)} has an alias that cannot be resolved`]);
  }
}

function walk(content: object, prefix: string, source: string, layer: Layer, problems: string[]): void {
  for (const [name, value] of Object.entries(content)) {
    const key = prefix + name;
    if (settingsByKey.has(key)) layer.set(key, { value, source });
    else if (!knownKeys.includes(key)) problems.push(unknownName('key', key, source, knownKeys));
    else if (isPlainObject(value)) walk(value, `${key}.`, source, layer, problems);
    else if (value !== null) problems.push(`${key} (${source}) is ${shown(value)}; it must be a map of settings`);
  }
}

/**
 * `COUPLET_CONFIG` is the file, `COUPLET_WORKER` a worker's number; the others with these beginnings belong to the test
 * suite and the benchmarks.
 */
const otherVariables = /^COUPLET_(CONFIG$|WORKER$|TEST_|BENCH_)/;

/**
 * Reads the `COUPLET_…` variables. An empty one counts as not set. Unknown ones are problems, save those that
 * Kubernetes sets in every container beside a service that is called couplet.
 */
export function environmentLayer(env: Environment, problems: string[]): Layer {
  const layer: Layer = new Map();
  const byName = new Map(settings.map((setting) => [setting.env, setting]));
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith('COUPLET_') || text === undefined) continue;
    const setting = byName.get(name);
    const source = `environment ${name}`;
    if (setting === undefined) {
      if (otherVariables.test(name) || isServiceLink(name, text)) continue;
      problems.push(unknownName('variable', name, 'environment', [...byName.keys()]));
    } else if (text !== '') {
      layer.set(setting.key, { value: fromText(setting, text), source });
    }
  }
  return layer;
}

function isServiceLink(name: string, text: string): boolean {
  if (/_SERVICE_(HOST|PORT)(_|$)/.test(name) || /_PORT_[0-9]+_(TCP|UDP|SCTP)(_|$)/.test(name)) return true;
  return name.endsWith('_PORT') && /^(tcp|udp|sctp):\/\//.test(text);
}

/** Takes the flags' texts. The key paths come from {@link settings}, so an unknown one is a mistake of the caller. */
export function flagLayer(flags: FlagValues): Layer {
  const layer: Layer = new Map();
  for (const [key, text] of Object.entries(flags)) {
    const setting = settingsByKey.get(key);
    if (setting === undefined) throw new TypeError(`no setting is called ${shown(key)}`);
    layer.set(key, { value: fromText(setting, text), source: `flag ${setting.option}` });
  }
  return layer;
}

/** A text that is not of the setting's form stays a text: the zod type then refuses it. */
function fromText(setting: Setting, text: string): unknown {
  switch (setting.form) {
    case 'number':
      return /^-?[0-9]{1,16}$/.test(text) ? Number(text) : text;
    case 'boolean':
      return text === 'true' ? true : text === 'false' ? false : text;
    case 'list':
      if (text.startsWith('[')) return fromJson(text);
      return elementsOf(text);
    case 'numbers':
      if (text.startsWith('[')) return fromJson(text);
      return elementsOf(text).map((element) => (/^[0-9]{1,16}$/.test(element) ? Number(element) : element));
    case 'object':
      return fromJson(text);
    case 'text':
      return text;
  }
}

function elementsOf(text: string): string[] {
  return text === '' ? [] : text.split(',').map((element) => element.trim());
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Later layers win; then every value is held against its setting's type. */
export function mergeLayers(layers: readonly Layer[], problems: string[]): Layer {
  const merged: Layer = new Map();
  for (const layer of layers) {
    if (layer.has('auth.loginKey') && layer.has('auth.loginKeyFile')) {
      const { source } = layer.get('auth.loginKeyFile')!;
      problems.push(`auth.loginKeyFile (${source}) stands beside auth.loginKey; it must be one of the two`);
    }
    // The two are one choice: the later place decides, not the kind.
    if (layer.has('auth.loginKey')) merged.delete('auth.loginKeyFile');
    if (layer.has('auth.loginKeyFile')) merged.delete('auth.loginKey');
    for (const [key, entry] of layer) merged.set(key, entry);
  }
  for (const [key, { value, source }] of merged) {
    const setting = settingsByKey.get(key)!;
    if (setting.table !== undefined) merged.set(key, { value: checkTable(setting, value, source, problems), source });
    else if (!setting.type.safeParse(value).success || value === undefined)
      problems.push(notAllowed(setting, value, source));
  }
  return merged;
}

/** The code of a system error (`ENOENT`), never its message. */
export function errorCode(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : 'unknown error';
}
