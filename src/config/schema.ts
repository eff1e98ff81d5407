import { z } from 'zod';
import { cluster } from './cluster.ts';
import { domains, recording } from './recording.ts';
import {
  address,
  anyPath,
  choice,
  derivedWhole,
  isAgentHost,
  isNetwork,
  isOrigin,
  list,
  maxCount,
  maxTimerMs,
  onOff,
  optionalWords,
  path,
  type SettingMeta,
  settingRegistry,
  type TableMeta,
  tableMetas,
  whole,
  words,
} from './setting.ts';

/*
 * Every setting stands here (or in recording.ts, cluster.ts) once. Flags, help texts, environment names, the checks of the file, the JSON Schema and
 * docs/reference/config.md are made from this definition.
 */

const directoryForms = 'none, sqlite or postgres://USER:PASSWORD@HOST:PORT/DATABASE';
const maxRate = 1_000_000_000_000;
const reloadable = true;

const server = z
  .strictObject({
    listen: address('127.0.0.1:8080', { about: 'Address of the relay endpoint.', flag: 'listen' }),
    metricsListen: address('127.0.0.1:9464', {
      about: 'Address of the metrics endpoint, `/metrics`.',
      flag: 'metrics-listen',
    }),
    publicMetrics: onOff(false, { about: 'Serve `/metrics` on the relay endpoint as well.', flag: 'public-metrics' }),
    drainMs: whole(60_000, 0, maxTimerMs, {
      about: 'How long running sessions may go on after SIGTERM before they are closed with 1001.',
      zero: 'no wait',
      reloadable,
    }),
    trustedProxies: list(isNetwork, 'ADDRESS[/BITS],…', 'a list of addresses or networks, as 10.0.0.0/8', {
      about: 'Proxies whose X-Forwarded-For header and PROXY protocol v2 are believed.',
      flag: 'trusted-proxies',
    }),
    allowedOrigins: list(
      isOrigin,
      'ORIGIN,…',
      'a list of origins, as https://example.org or https://example.org:8443, lower-case and without a path',
      { about: "Origins besides the relay's own from which a login session may open a half.", flag: 'allowed-origins' },
    ),
    dataDir: words('data', anyPath, 'DIR', path, {
      about: 'Folder of the directory, of the event log, of the memory of single-use cookies and of secrets made here.',
      flag: 'data',
    }),
    workers: whole(1, 1, 256, {
      about:
        'Worker processes, each a server of the cluster behind this one configuration; more than one need `cluster.redis`.',
      flag: 'workers',
    }),
    workerPorts: choice(['shared', 'consecutive'], 'shared', {
      about:
        'Where several workers listen: all on the port of `server.listen`, or worker I on that port + I - 1, for a proxy that chooses the worker by the session id.',
      flag: 'worker-ports',
    }),
  })
  .prefault({});

const tls = z
  .strictObject({
    certFile: optionalWords(anyPath, 'FILE', path, {
      about: 'Certificate chain in PEM form; with `tls.keyFile` it turns TLS on.',
      flag: 'tls-cert',
      reloadable,
    }),
    keyFile: optionalWords(anyPath, 'FILE', path, {
      about: 'Private key of `tls.certFile` in PEM form, not encrypted.',
      flag: 'tls-key',
      reloadable,
    }),
  })
  .prefault({});

const auth = z
  .strictObject({
    loginKey: optionalWords(/^[0-9a-fA-F]{160}$/, 'HEX160', '160 hex digits', {
      about: 'The login key that seals cookies. On the command line it is for tests: others can read it there.',
      flag: 'login-key',
      secret: true,
    }),
    loginKeyFile: optionalWords(anyPath, 'FILE', path, {
      about: 'File that holds the login key as 160 hex digits; not together with `auth.loginKey`.',
      flag: 'login-key-file',
    }),
    cookieEncoding: choice(['base64', 'hex'], 'base64', { about: 'How sealed cookies are written.' }),
    defaultUser: optionalWords(/^[\x21-\x7e]{1,256}$/, 'NAME', '1 to 256 printable ASCII characters, no space', {
      about: "Single-user installations: takes the place of both halves' user ids when they are compared.",
      flag: 'default-user',
    }),
    allowNoUser: onOff(false, { about: 'Accept device cookies without a user, `{nouser: 1}`, that name their id.' }),
    pendingMs: whole(5000, 1, maxTimerMs, {
      about: 'How long authentication of an upgrade may take before it is answered with 503.',
      reloadable,
    }),
  })
  .prefault({});

const relay = z
  .strictObject({
    holdMs: whole(30_000, 1, maxTimerMs, { about: 'How long the first half waits for its mate.', reloadable }),
    highWaterBytes: whole(1_048_576, 1024, 1_073_741_824, {
      about: 'Past this much buffered for a half, its mate is not read.',
      reloadable,
    }),
    lowWaterBytes: derivedWhole(0, 1_073_741_823, {
      about: 'The mate is read again once no more than this is buffered.',
      derivedDefault: 'a quarter of `relay.highWaterBytes`',
      reloadable,
    }),
    maxMessageBytes: whole(16_777_216, 1, maxTimerMs, {
      about: 'Largest message; a larger one closes 1009.',
      reloadable,
    }),
    pingSeconds: whole(0, 0, 2_147_483, { about: 'Interval of keepalive texts of type `ping`.', reloadable }),
    pongSeconds: whole(0, 0, 2_147_483, { about: 'Interval of keepalive texts of type `pong`.', reloadable }),
    wsPingSeconds: whole(60, 0, 2_147_483, {
      about: 'Interval of WebSocket pings; a half that lets one go unanswered is dead.',
      reloadable,
    }),
    stallMs: whole(120_000, 1, maxTimerMs, {
      about: 'A half with a backlog that takes no byte for this long ends the session with `slow`.',
      reloadable,
    }),
    lingerMs: whole(30_000, 1, maxTimerMs, {
      about: 'How long a mate may take to drain after the other half closed cleanly.',
      reloadable,
    }),
    signedIds: onOff(false, { about: 'Accept only session ids that `couplet token id` signed.' }),
    strictSides: onOff(false, { about: 'Two user halves never pair, not even those of one user.' }),
    idleMs: whole(0, 0, maxTimerMs, { about: 'No message either way for this long ends the session.', reloadable }),
    maxSessionMs: whole(0, 0, maxTimerMs, { about: 'Longest session.', reloadable }),
    sessionBytesPerSecond: whole(0, 0, maxRate, { about: 'Pace of a session, both directions together.', reloadable }),
    userBytesPerSecond: whole(0, 0, maxRate, { about: 'Pace of all sessions of a user together.', reloadable }),
    maxWaiting: whole(100_000, 0, maxCount, { about: 'Most waiting halves in all; one more gets 503.', reloadable }),
    maxWaitingPerAddress: whole(1000, 0, maxCount, {
      about: 'Most waiting halves of one address; one more gets 429.',
      reloadable,
    }),
    maxSessionsPerUser: whole(0, 0, maxCount, {
      about: 'Most running sessions of one user; one more gets 4429.',
      reloadable,
    }),
    upgradesPerAddressPerSecond: whole(200, 0, maxCount, {
      about: 'Most upgrade requests of one address in a second; one more gets 429.',
      reloadable,
    }),
    forwarder: choice(['auto', 'native', 'portable'], 'auto', {
      about:
        'Which path messages take. `auto`: native where its start-up self-test passes, else portable; `native` does not start without it.',
    }),
  })
  .prefault({});

const routing = z
  .strictObject({
    requireRelayRight: onOff(false, {
      about: 'Sessions to TCP and UDP ports of a device need the right `relay` besides `remote-control`.',
      reloadable,
    }),
  })
  .prefault({});

const agents = z
  .strictObject({
    hosts: list(isAgentHost, 'HOST[:PORT],…', 'a list of HOST, HOST:PORT or [IPV6]:PORT, lower-case', {
      about:
        'Names and ports under which agents reach this server, where they are not those that it listens on: behind a proxy, say, its public name. A name without a port stands for 443 and 80.',
    }),
    heartbeatMs: whole(10_000, 50, 12_000, {
      about: 'Interval of heartbeats on control channels; an agent that is silent 2.5 times as long is offline.',
    }),
  })
  .prefault({});

const messenger = z
  .strictObject({
    allowAnonymousDevice: onOff(false, {
      about: 'In a user-to-device messenger session the device half may be unauthenticated.',
    }),
  })
  .prefault({});

const audit = z
  .strictObject({
    dir: optionalWords(anyPath, 'DIR', path, {
      about: 'Folder of the event log.',
      derivedDefault: '`events` in `server.dataDir`',
    }),
    maxFileBytes: whole(67_108_864, 0, maxCount, {
      about: 'A new file of the event log begins once one has grown past this.',
    }),
    databaseDays: whole(90, 0, 36_500, {
      about: 'How long events stay in the directory database, for queries; the event log is not touched.',
      zero: 'for ever',
      reloadable,
    }),
  })
  .prefault({});

const log = z
  .strictObject({
    level: choice(['debug', 'info', 'warn', 'error'], 'info', {
      about: 'Least level of the log lines on stdout.',
      flag: 'log-level',
      reloadable,
    }),
  })
  .prefault({});

/** The whole configuration as the file holds it; its keys are the settings' key paths. */
export const configSchema = z
  .strictObject({
    server,
    tls,
    auth,
    domains,
    directory: words(
      'sqlite',
      /^(?:none|sqlite|postgres(?:ql)?:.{1,4096})$/,
      'none|sqlite|postgres:URL',
      directoryForms,
      {
        about:
          'Where users and devices are kept: in `directory.sqlite` of `server.dataDir`, in a PostgreSQL database, or nowhere. With `none` identities come from cookies alone, every domain is known and nothing is routed.',
        flag: 'directory',
        secret: true,
      },
    ),
    routing,
    agents,
    relay,
    messenger,
    recording,
    audit,
    cluster,
    log,
  })
  .describe('Configuration of couplet serve');

type Parsed = z.output<typeof configSchema>;

/** The configuration of a server: every default filled in, also those worked out from other settings. */
export type Config = Omit<Parsed, 'relay' | 'recording' | 'audit'> & {
  relay: Omit<Parsed['relay'], 'lowWaterBytes'> & { lowWaterBytes: number };
  recording: Omit<Parsed['recording'], 'dir'> & { dir: string };
  audit: Omit<Parsed['audit'], 'dir'> & { dir: string };
};

/** A setting below the names of a table: it stands in the file, and has neither flag nor variable of its own. */
export interface Member extends SettingMeta {
  /** Key path in the file, `relay.maxMessageBytes`; of a table's member the part behind the name. */
  readonly key: string;
  readonly type: z.ZodType;
}

/** One setting, with all its names. */
export interface Setting extends Member {
  /** Environment variable, `COUPLET_RELAY_MAX_MESSAGE_BYTES`. */
  readonly env: string;
  /** Flag with its dashes, `--relay-max-message-bytes`. */
  readonly option: string;
  /** The default as JSON value; `undefined` where there is none or it is derived. */
  readonly initial: unknown;
  readonly table: TableMeta | undefined;
  /** What may stand below each name of a table; empty for other settings. */
  readonly members: readonly Member[];
}

const breakWords = (key: string, by: string) => key.replaceAll('.', by).replace(/([a-z0-9])([A-Z])/g, `$1${by}$2`);

type Group = z.ZodObject<Record<string, z.ZodType>>;

function collect(shape: Record<string, z.ZodType>, prefix: string): Setting[] {
  return Object.entries(shape).flatMap(([name, type]) => {
    const key = prefix + name;
    const meta = settingRegistry.get(type);
    if (meta === undefined) {
      const group = (type as z.ZodPrefault<Group> | z.ZodOptional<Group>).unwrap();
      return collect(group.shape, `${key}.`);
    }
    const option = `--${meta.flag ?? breakWords(key, '-').toLowerCase()}`;
    const initial = type instanceof z.ZodDefault ? type.def.defaultValue : undefined;
    const env = `COUPLET_${breakWords(key, '_').toUpperCase()}`;
    const table = tableMetas.get(type);
    const members = table === undefined ? [] : collect(table.shape, '');
    return [{ ...meta, key, env, option, initial, type, table, members }];
  });
}

/** Every setting, in the order of the reference page. */
export const settings: readonly Setting[] = collect(configSchema.shape, '');

export const settingsByKey: ReadonlyMap<string, Setting> = new Map(settings.map((setting) => [setting.key, setting]));

/** JSON Schema (draft 2020-12) of the configuration file. */
export function configJsonSchema(): unknown {
  return z.toJSONSchema(configSchema, { io: 'input' });
}
