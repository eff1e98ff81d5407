import type { RelayHooks } from './compose/hooks.ts';
import { Server } from './compose.ts';
import { loadConfig } from './config/load.ts';
import type { LogLevel } from './core/errors.ts';
import { createLogger } from './core/logger.ts';
import type { Directory } from './directory/directory.ts';
import type { RunningSession } from './relay/session.ts';

export type { EventRecord } from './audit/sink.ts';
export { CookieSealer } from './auth/cookie.ts';
export { LoginKey } from './auth/keys.ts';
export type { RelayHooks } from './compose/hooks.ts';
export { systemClock } from './core/clock.ts';
export { CoupletError } from './core/errors.ts';
export { type Outcome, outcomes } from './core/outcome.ts';
export type * from './directory/directory.ts';
export { type CloseCode, closeCodes } from './protocol/close-codes.ts';
export type { Admission, Identity, IdentityKind, Side } from './relay/half.ts';
export type { RunningSession, Session } from './relay/session.ts';
export type { UpgradeRequest } from './server/relay-endpoint.ts';

export interface RelayOptions extends RelayHooks {
  /** Settings in the shape of the configuration file, see docs/reference/config.md. The environment is not read. */
  readonly settings?: object;
  /** A configuration file that counts before `settings`. */
  readonly configFile?: string;
  /** Where log lines go: a file descriptor or a path; standard error unless told otherwise. */
  readonly logTo?: number | string;
}

/** A running relay. */
export interface RelayServer {
  /** `HOST:PORT`. */
  readonly address: string;
  readonly port: number;
  readonly metricsAddress: string;
  /** The path that messages take. */
  readonly forwarder: 'native' | 'portable';
  /** Users, devices, rights, as configured by `directory`. Not to be closed: it closes with the server. */
  readonly directory: Directory;
  /** Running sessions, now. */
  sessions(): RunningSession[];
  /** Ends a session with 4410 (outcome `revoked`); false where no such session runs. */
  revoke(domain: string, id: string): boolean;
  /** Takes no new halves, waits up to `server.drainMs`, closes everything. A second call skips the wait. */
  close(): Promise<void>;
}

/**
 * Starts a relay in this process; resolves when it accepts connections. `couplet serve` is this with a command line.
 * @throws CoupletError `CPL_CONFIG` where a setting is not allowed, `CPL_LISTEN` where the address is taken
 */
export async function createRelay(options: RelayOptions = {}): Promise<RelayServer> {
  const { settings, configFile, logTo = 2, ...hooks } = options;
  const loaded = loadConfig({ file: configFile, settings, env: {} });
  const log = createLogger({ level: loaded.config.log.level as LogLevel, to: logTo });
  const letGo = async () => {
    await log.drained();
    log.close();
  };
  let server: Server;
  try {
    server = await Server.start(loaded, { log, hooks });
  } catch (error) {
    await letGo();
    throw error;
  }
  return {
    address: server.address,
    port: server.port,
    metricsAddress: server.metricsAddress,
    forwarder: server.forwarderKind,
    directory: server.directory,
    sessions: () => [...server.relay.sessions()],
    revoke: (domain, id) => server.relay.revoke(domain, id),
    close: async () => {
      await server.stop('closed by the program');
      await letGo();
    },
  };
}
