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
  readonly tls: TlsFiles | undefined;
  /** Puts the routes on an app; called again for each new certificate. */
  readonly register: (app: TemplatedApp, ssl: boolean) => void;
}

/** LIBUS_LISTEN_EXCLUSIVE_PORT: a stray second process must not share the port in silence. */
const exclusivePort = 1;

/** The host-and-options form of `listen` is in uWebSockets.js's code, not in its typings. */
type ListenOnHost = (
  host: string,
  port: number,
  options: number,
  done: (socket: us_listen_socket | false) => void,
) => TemplatedApp;

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
    this.#open();
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
   * @throws CoupletError `CPL_TLS`: the old one still listens
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
    const resting = this.#socket === undefined;
    this.rest();
    this.#apps.push(app);
    if (!resting) this.#open();
  }

  /** Ends everything, also the connections that stand. */
  close(): void {
    this.rest();
    for (const app of this.#apps.splice(0)) app.close();
  }

  #makeApp(): TemplatedApp {
    const tls = this.#tls;
    let app: TemplatedApp;
    try {
      app =
        tls === undefined
          ? App()
          : SSLApp({ cert_file_name: tls.certFile, key_file_name: tls.keyFile, ssl_prefer_low_memory_usage: true });
    } catch (cause) {
      throw new CoupletError(
        'CPL_TLS',
        `tls.certFile ${tls?.certFile} and tls.keyFile ${tls?.keyFile} do not work together`,
        {
          level: 'error',
          cause,
        },
      );
    }
    this.#options.register(app, tls !== undefined);
    return app;
  }

  #open(): void {
    const { host } = this.#options;
    let opened: us_listen_socket | false = false;
    const app = this.#apps.at(-1)! as unknown as { listen: ListenOnHost };
    app.listen(host, this.#port, exclusivePort, (socket) => {
      opened = socket;
    });
    if (opened === false) {
      throw new CoupletError(
        'CPL_LISTEN',
        `server.listen ${host}:${this.#port} cannot be listened on; it must be a free address of this machine`,
        { level: 'error' },
      );
    }
    this.#socket = opened;
    this.#port = us_socket_local_port(opened as unknown as Parameters<typeof us_socket_local_port>[0]);
  }
}
