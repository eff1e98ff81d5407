import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { CoupletError } from '../core/errors.ts';
import { migrate } from './migrate.ts';
import type { Db, Schema } from './schema.ts';

const connectMs = 5_000;
/** No statement of the directory takes near as long. */
const statementMs = 10_000;
const int8 = 20;

/** Whole numbers of 8 bytes as numbers: times and counts, all far below 2^53. */
const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    oid === int8 && format !== 'binary' ? Number : pg.types.getTypeParser(oid, format as 'text')) as never,
};

export interface PostgresOptions {
  /** `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; never in an error or a log. */
  readonly url: string;
  readonly maxConnections: number;
  onError(error: unknown): void;
}

/** What every connection is made with. @throws CoupletError `CPL_DIRECTORY_URL` */
export function clientConfig(url: string): pg.ClientConfig {
  const { protocol, hostname, pathname } = URL.canParse(url)
    ? new URL(url)
    : { protocol: '', hostname: '', pathname: '' };
  if (!/^postgres(ql)?:$/.test(protocol) || hostname === '' || pathname.length < 2) {
    const text = 'the directory URL must be as postgres://USER:PASSWORD@HOST:PORT/DATABASE';
    throw new CoupletError('CPL_DIRECTORY_URL', text, { level: 'error' });
  }
  return {
    connectionString: url,
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    application_name: 'couplet',
    types,
  };
}

/**
 * Connects, with tables as this version has them.
 * @throws CoupletError `CPL_DIRECTORY_URL`, `CPL_DIRECTORY_UNAVAILABLE`, `CPL_DIRECTORY_MIGRATION`
 */
export async function openPostgres(options: PostgresOptions): Promise<Db> {
  const pool = new pg.Pool({
    ...clientConfig(options.url),
    max: options.maxConnections,
    idleTimeoutMillis: 30_000,
    statement_timeout: statementMs,
    // On the client's side, for a server that is gone without a word.
    query_timeout: statementMs + connectMs,
  });
  // A connection that breaks while nobody uses it; the pool makes another one.
  pool.on('error', (error) => options.onError(error));
  const db = new Kysely<Schema>({ dialect: new PostgresDialect({ pool }) });
  try {
    await pool.query('select 1');
    await migrate(db as unknown as Kysely<never>, false);
    return db;
  } catch (error) {
    await pool.end();
    throw error instanceof CoupletError ? error : unavailable(options.url, error);
  }
}

/** Names host and database, and nothing else of the URL. */
export function unavailable(url: string, cause: unknown): CoupletError {
  const { host, pathname } = new URL(url);
  const code = (cause as { code?: string }).code;
  const why = code ?? (cause instanceof Error ? cause.message.split('\n')[0] : 'unknown error');
  const text = `the directory database ${pathname.slice(1)} at ${host} cannot be used: ${why}`;
  return new CoupletError('CPL_DIRECTORY_UNAVAILABLE', text, { level: 'error', httpStatus: 503, cause });
}
