import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crossCheckCluster } from './cluster-check.ts';
import { ConfigError, shown } from './errors.ts';
import {
  type Environment,
  environmentLayer,
  errorCode,
  type FlagValues,
  fileLayer,
  flagLayer,
  type Layer,
  mergeLayers,
  objectLayer,
} from './layers.ts';
import { crossCheckListeners } from './listeners.ts';
import { type Config, configSchema, settingsByKey } from './schema.ts';
import { crossCheckWorkers } from './workers.ts';

/** A configuration that passed every check, with what was read from the files it names. */
export interface LoadedConfig {
  readonly config: Config;
  /** The 80 bytes of the login key (R5), from whichever place gave it; `undefined` where none did. */
  readonly loginKey: Buffer | undefined;
  /** SHA-256 over certificate and key: a change under the same names is a change too. Empty without TLS. */
  readonly tlsFingerprint: string;
  /** Where each setting that is not at its default came from, `file …`, `environment …` or `flag …`. */
  readonly sources: ReadonlyMap<string, string>;
}

export interface LoadInput {
  /** Configuration file; where it is absent, the one that `COUPLET_CONFIG` names, if any. */
  readonly file?: string | undefined;
  readonly flags?: FlagValues;
  /** Settings in the shape of the file, from a program that uses Couplet as a library; they count like flags. */
  readonly settings?: object | undefined;
  /** The process's environment unless told otherwise. */
  readonly env?: Environment;
}

/**
 * [R40] Defaults, then the file, then the environment, then flags; checked as a whole, the login key and the TLS files
 * read. Nothing is listening or changed when it throws, so a reload that fails keeps the old configuration.
 * @throws ConfigError with a line for every mistake found
 */
export function loadConfig(input: LoadInput = {}): LoadedConfig {
  const env = input.env ?? process.env;
  const file = input.file ?? (env.COUPLET_CONFIG || undefined);
  const problems: string[] = [];
  const layers = [
    file === undefined ? new Map() : fileLayer(file, problems),
    environmentLayer(env, problems),
    flagLayer(input.flags ?? {}),
    objectLayer(input.settings ?? {}, problems),
  ];
  const merged = mergeLayers(layers, problems);
  if (problems.length > 0) throw new ConfigError(problems);
  const config = complete(merged);
  crossCheck(config, problems);
  crossCheckListeners(config, problems);
  crossCheckWorkers(config, problems);
  crossCheckCluster(config.cluster, problems);
  const loginKey = readLoginKey(config.auth, problems);
  const tlsFingerprint = checkTlsFiles(tlsNames, config.tls, problems);
  checkLinkFiles(config.cluster, problems);
  if (problems.length > 0) throw new ConfigError(problems);
  const sources = new Map([...merged].map(([key, { source }]) => [key, source]));
  return { config, loginKey, tlsFingerprint, sources };
}

/** Builds the nested object and fills in the defaults that depend on other settings. */
function complete(layer: Layer): Config {
  const nested: Record<string, unknown> = {};
  for (const [key, { value }] of layer) {
    const [group, name] = key.split('.') as [string, string | undefined];
    if (name === undefined) nested[group] = value;
    else nested[group] = { ...(nested[group] as object | undefined), [name]: value };
  }
  const { relay, recording, audit, ...rest } = configSchema.parse(nested);
  return {
    ...rest,
    relay: { ...relay, lowWaterBytes: relay.lowWaterBytes ?? Math.floor(relay.highWaterBytes / 4) },
    recording: { ...recording, dir: recording.dir ?? join(rest.server.dataDir, 'recordings') },
    audit: { ...audit, dir: audit.dir ?? join(rest.server.dataDir, 'events') },
  };
}

function crossCheck({ relay, recording, tls }: Config, problems: string[]): void {
  if (relay.lowWaterBytes >= relay.highWaterBytes) {
    problems.push(
      `relay.lowWaterBytes is ${relay.lowWaterBytes}; it must be less than relay.highWaterBytes, which is ${relay.highWaterBytes}`,
    );
  }
  if (recording.fsyncMs < recording.flushMs) {
    problems.push(
      `recording.fsyncMs is ${recording.fsyncMs}; it must be at least recording.flushMs, which is ${recording.flushMs}`,
    );
  }
  if ((tls.certFile === undefined) !== (tls.keyFile === undefined)) {
    const [given, absent] = tls.certFile === undefined ? ['keyFile', 'certFile'] : ['certFile', 'keyFile'];
    problems.push(`tls.${absent} is not set; it must be the file that belongs to tls.${given}, or neither is set`);
  }
}

interface LoginKeySource {
  readonly loginKey?: string | undefined;
  readonly loginKeyFile?: string | undefined;
}

function readLoginKey({ loginKey, loginKeyFile }: LoginKeySource, problems: string[]): Buffer | undefined {
  if (loginKey !== undefined) return Buffer.from(loginKey, 'hex');
  if (loginKeyFile === undefined) return undefined;
  const text = readText('auth.loginKeyFile', loginKeyFile, problems)?.trim();
  if (text === undefined) return undefined;
  const setting = settingsByKey.get('auth.loginKey')!;
  if (setting.type.safeParse(text).success) return Buffer.from(text, 'hex');
  problems.push(`auth.loginKeyFile is ${shown(loginKeyFile)}; what it holds must be ${setting.allowed}`);
  return undefined;
}

function checkLinkFiles({ redis, linkCertFile, linkKeyFile }: Config['cluster'], problems: string[]): void {
  if (redis === undefined) return;
  const names = { certFile: 'cluster.linkCertFile', keyFile: 'cluster.linkKeyFile' };
  checkTlsFiles(names, { certFile: linkCertFile, keyFile: linkKeyFile }, problems);
}

const tlsNames = { certFile: 'tls.certFile', keyFile: 'tls.keyFile' };

function checkTlsFiles(names: typeof tlsNames, { certFile, keyFile }: Config['tls'], problems: string[]): string {
  if (certFile === undefined || keyFile === undefined) return '';
  const certificate = readText(names.certFile, certFile, problems);
  const key = readText(names.keyFile, keyFile, problems);
  if (certificate === undefined || key === undefined) return '';
  const parsed = attempt(() => new X509Certificate(certificate));
  const privateKey = attempt(() => createPrivateKey(key));
  if (parsed === undefined)
    problems.push(`${names.certFile} is ${shown(certFile)}; what it holds must be a PEM certificate`);
  if (privateKey === undefined) {
    problems.push(
      `${names.keyFile} is ${shown(keyFile)}; what it holds must be a PEM private key without a passphrase`,
    );
  }
  if (parsed === undefined || privateKey === undefined) return '';
  if (!parsed.checkPrivateKey(privateKey)) {
    problems.push(
      `${names.keyFile} is ${shown(keyFile)}; it must hold the key of the certificate in ${shown(certFile)}`,
    );
  }
  return createHash('sha256').update(certificate).update('\0').update(key).digest('hex');
}

/** `undefined` where `parse` throws: the caller names the file, the library's words could quote it. */
function attempt<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch {
    return undefined;
  }
}

function readText(key: string, file: string, problems: string[]): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    problems.push(`${key} is ${shown(file)}, which cannot be read: ${errorCode(cause)}`);
    return undefined;
  }
}

/**
 * The login key for commands that read no configuration file (`couplet token`, `couplet pipe`): from their flags, else
 * from the environment, under the same names and with the same checks as in `couplet serve`.
 * @throws ConfigError where the key is bad, given twice, or absent
 */
export function resolveLoginKey(flags: LoginKeySource = {}, env: Environment = process.env): Buffer {
  const problems: string[] = [];
  const names = ['auth.loginKey', 'auth.loginKeyFile'].map((key) => settingsByKey.get(key)!);
  const given = Object.fromEntries(names.map(({ env: name }) => [name, env[name]]));
  const texts: Record<string, string> = {};
  if (flags.loginKey !== undefined) texts['auth.loginKey'] = flags.loginKey;
  if (flags.loginKeyFile !== undefined) texts['auth.loginKeyFile'] = flags.loginKeyFile;
  const merged = mergeLayers([environmentLayer(given, problems), flagLayer(texts)], problems);
  const value = (key: string) => merged.get(key)?.value as string | undefined;
  const source = { loginKey: value('auth.loginKey'), loginKeyFile: value('auth.loginKeyFile') };
  const key = problems.length > 0 ? undefined : readLoginKey(source, problems);
  if (problems.length > 0) throw new ConfigError(problems);
  if (key !== undefined) return key;
  const ways = names.flatMap((setting) => [setting.option, setting.env]).join(', ');
  throw new ConfigError([`auth.loginKey is not set; it must be given by one of ${ways}`]);
}
