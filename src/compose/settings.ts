import { LoginKey } from '../auth/keys.ts';
import type { LoadedConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { ensureSecretFile } from '../core/lifecycle.ts';
import type { RelaySettings } from '../relay/relay.ts';

/** `relay.*` and what else of the configuration the relay follows. */
export function relaySettings(config: Config): RelaySettings {
  return { ...config.relay, defaultUser: config.auth.defaultUser ?? '' };
}

/** The configured login key, else the one in the data folder, which is made where there is none (mode 0600). */
export function loginKeyOf(loaded: LoadedConfig): LoginKey {
  if (loaded.loginKey !== undefined) return LoginKey.parse(loaded.loginKey.toString('hex'));
  const hex = ensureSecretFile(loaded.config.server.dataDir, 'login.key', () => `${LoginKey.generate().toHex()}\n`);
  return LoginKey.parse(hex, `the login key file ${loaded.config.server.dataDir}/login.key`);
}
