import {
  App,
  SSLApp,
  type TemplatedApp,
  type us_listen_socket,
  us_listen_socket_close,
  us_socket_local_port,
} from 'uWebSockets.js';
import { CoupletError } from '../core/errors.ts';

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

export interface AppOptions {
  readonly host: string;
  readonly port: number;
  /** Whether other processes of this server may listen on the same port [K8]; the kernel spreads connections. */
  readonly shared?: boolean;
  /** The setting that the address comes from, for errors; `server.listen`. */
  readonly setting?: string;
  readonly tls: TlsFiles | undefined;
  /** Puts the routes on an app; called again for each new certificate. */
  readonly register: (app: TemplatedApp, ssl: boolean) => void;
}

/** LIBUS_LISTEN_EXCLUSIVE_PORT: a stray second process must not share the port in silence. */
const exclusivePort = 1;
/** SO_REUSEPORT, which µSockets sets on any port but 0: processes of one user may share it. */
const sharedPort = 0;

/** The host-and-options form of `listen` is in uWebSockets.js's code, not in its typings. */
type ListenOnHost = (
  host: string,
  port: number,
  options: number,
  done: (socket: us_listen_socket | false) => void,
) => TemplatedApp;

function secureApp({ certFile, keyFile }: TlsFiles): TemplatedApp {
  try {
    return SSLApp({ cert_file_name: certFile, key_file_name: keyFile, ssl_prefer_low_memory_usage: true });
  } catch (cause) {
    const text = `tls.certFile ${certFile} and tls.keyFile ${keyFile} cannot be used; they must be an RSA or P-256 pair`;
    throw new CoupletError('CPL_TLS', text, { level: 'error', cause });
  }
}

/**
 * Whether uWebSockets.js's TLS library takes a certificate: it knows fewer kinds than Node.js's, with which the
 * configuration was checked.
 * @throws CoupletError `CPL_TLS`
 */
export function checkCertificate(tls: TlsFiles): void {
  secureApp(tls).close();
}

/**
 * The uWebSockets.js listener: one app, or after a certificate was replaced several, of which the newest listens and
 * the others carry the sessions they have (R40).
 */
export class Listener {
  readonly #options: AppOptions;
  #apps: TemplatedApp[] = [];
  #socket: us_listen_socket | undefined;
  #port: number;
  #tls: TlsFiles | undefined;

  constructor(options: AppOptions) {
    this.#options = options;
    this.#port = options.port;
    this.#tls = options.tls;
  }

  /** The port listened on; the one that was found where 0 was asked for. */
  get port(): number {
    return this.#port;
  }

  get listening(): boolean {
    return this.#socket !== undefined;
  }

  /** @throws CoupletError `CPL_LISTEN`, `CPL_TLS` */
  listen(): void {
    this.#apps.push(this.#makeApp());
    const anyPort = this.#port === 0;
    this.#open();
    // On port 0 µSockets leaves SO_REUSEADDR off, for accepted sockets too: with one open, the port could not be
    // listened on again. So the port that was found is opened like one that was asked for.
    if (anyPort) this.#reopen();
  }

  /** Stops accepting; connections that stand go on. */
  rest(): void {
    if (this.#socket === undefined) return;
    us_listen_socket_close(this.#socket);
    this.#socket = undefined;
  }

  /** Accepts again on the same port. @throws CoupletError `CPL_LISTEN` */
  wake(): void {
    if (this.#socket === undefined) this.#open();
  }

  /**
   * Goes on listening with another certificate. uWebSockets.js cannot reload one, so a new app takes over the port;
   * sessions of the old one are not touched.
   * @throws CoupletError `CPL_TLS`, `CPL_LISTEN`: the old one still listens
   */
  replaceCertificate(tls: TlsFiles): void {
    const before = this.#tls;
    this.#tls = tls;
    let app: TemplatedApp;
    try {
      app = this.#makeApp();
    } catch (error) {
      this.#tls = before;
      throw error;
    }
    this.#apps.push(app);
    if (this.#socket === undefined) return;
    try {
      this.#reopen();
    } catch (error) {
      this.#apps.pop();
      app.close();
      this.#tls = before;
      this.#open();
      throw error;
    }
  }

  /** Ends everything, also the connections that stand. */
  close(): void {
    this.rest();
    for (const app of this.#apps.splice(0)) app.close();
  }

  #makeApp(): TemplatedApp {
    const app = this.#tls === undefined ? App() : secureApp(this.#tls);
    this.#options.register(app, this.#tls !== undefined);
    return app;
  }

  #reopen(): void {
    this.rest();
    this.#open();
  }

  #open(): void {
    const { host, shared = false, setting = 'server.listen' } = this.#options;
    let opened: us_listen_socket | false = false;
    const app = this.#apps.at(-1)! as unknown as { listen: ListenOnHost };
    app.listen(host, this.#port, shared ? sharedPort : exclusivePort, (socket) => {
      opened = socket;
    });
    if (opened === false) {
      throw new CoupletError(
        'CPL_LISTEN',
        `${setting} ${host}:${this.#port} cannot be listened on; it must be a free address of this machine`,
        { level: 'error' },
      );
    }
    this.#socket = opened;
    this.#port = us_socket_local_port(opened as unknown as Parameters<typeof us_socket_local_port>[0]);
  }
}
