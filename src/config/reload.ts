import { isDeepStrictEqual } from 'node:util';
import type { LoadedConfig } from './load.ts';
import { type Config, type Setting, settings } from './schema.ts';
import { withoutRestartOnly } from './tables.ts';

/** A setting that differs between two configurations; the values are as a log may show them. */
export interface ConfigChange {
  readonly key: string;
  readonly from: unknown;
  readonly to: unknown;
}

/** What a reload does (R40): some changes count at once, the others wait for a restart. */
export interface ReloadPlan {
  readonly applies: readonly ConfigChange[];
  readonly needsRestart: readonly ConfigChange[];
  /** True where the certificate or its key changed, by name or by content: the listener must be renewed. */
  readonly renewTls: boolean;
  /** What holds from now on: the old configuration with the changes that apply. The next reload starts from it. */
  readonly running: LoadedConfig;
}

/**
 * [R40] Compares the running configuration with a newly loaded one. Certificates under an unchanged name count as
 * changed when their content is. Turning TLS on or off needs a restart; so does another login key under an unchanged
 * file name, which is reported as `auth.loginKeyFile`.
 */
export function planReload(old: LoadedConfig, next: LoadedConfig): ReloadPlan {
  const applies: ConfigChange[] = [];
  const needsRestart: ConfigChange[] = [];
  const config = structuredClone(old.config);
  const tlsStays = (old.tlsFingerprint === '') === (next.tlsFingerprint === '');
  for (const setting of settings) {
    const from = read(old.config, setting);
    let to = read(next.config, setting);
    if (setting.table !== undefined) {
      const plan = withoutRestartOnly(setting, from, to);
      needsRestart.push(...plan.needsRestart);
      to = plan.running;
    }
    if (isDeepStrictEqual(from, to)) continue;
    const change = { key: setting.key, from: masked(setting, from), to: masked(setting, to) };
    const now = setting.reloadable && (tlsStays || !setting.key.startsWith('tls.'));
    (now ? applies : needsRestart).push(change);
    if (now) write(config, setting, to);
  }
  const renewTls = tlsStays && old.tlsFingerprint !== next.tlsFingerprint;
  if (renewTls && !applies.some(({ key }) => key.startsWith('tls.'))) {
    const file = next.config.tls.certFile;
    applies.push({ key: 'tls.certFile', from: file, to: file });
  }
  const sameKey = isDeepStrictEqual(old.loginKey, next.loginKey);
  if (!sameKey && !needsRestart.some(({ key }) => key.startsWith('auth.loginKey'))) {
    const file = next.config.auth.loginKeyFile;
    needsRestart.push({ key: 'auth.loginKeyFile', from: file, to: file });
  }
  const tlsFingerprint = renewTls ? next.tlsFingerprint : old.tlsFingerprint;
  return { applies, needsRestart, renewTls, running: { ...old, config, tlsFingerprint, sources: next.sources } };
}

type Group = Record<string, unknown>;

function holder(config: Config, { key }: Setting): [Group, string] {
  const [group, name] = key.split('.') as [string, string | undefined];
  const root = config as unknown as Group;
  return name === undefined ? [root, group] : [root[group] as Group, name];
}

function read(config: Config, setting: Setting): unknown {
  const [group, name] = holder(config, setting);
  return group[name];
}

function write(config: Config, setting: Setting, value: unknown): void {
  const [group, name] = holder(config, setting);
  group[name] = value;
}

function masked(setting: Setting, value: unknown): unknown {
  return setting.secret && value !== undefined ? '(value not shown)' : value;
}
