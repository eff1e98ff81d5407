import type { HttpRequest, HttpResponse, TemplatedApp, us_socket_context_t, WebSocket } from 'uWebSockets.js';
import type { NativeAddon } from '../native/binding.ts';
import { relayPathDomain } from '../protocol/paths.ts';
import type { Admission } from '../relay/half.ts';
import type { AdmissionLimit } from '../relay/limits.ts';
import type { Relay } from '../relay/relay.ts';
import { Half } from '../relay/session.ts';
import type { AddressClaims } from './address.ts';
import { type HalfData, type HalfSocketParts, UwsHalfSocket } from './half-socket.ts';
import { addressClaims, respond } from './http.ts';
import { openSockets } from './open-sockets.ts';

/** An upgrade request, copied out of uWebSockets.js's request object, which does not outlive its callback. */
export interface UpgradeRequest {
  readonly domain: string;
  /** Raw, without `?`; holds cookies: never to be logged. */
  readonly query: string;
  /** The half's address by R12. */
  readonly address: string;
  /** Header values; empty where there was none. `cookie` is for login sessions: never to be logged. */
  readonly origin: string;
  readonly host: string;
  readonly cookie: string;
  readonly scheme: 'http' | 'https';
}

/** Whether a half comes in; a refusal has an HTTP status and the true reason, which only the event tells. */
export type Decision =
  | {
      readonly ok: true;
      readonly admission: Admission;
      /** To be asked when no limit turns the half away: uses up a single-use cookie, and may still refuse. */
      readonly confirm?: () => Decision | Promise<Decision>;
      /** Takes the half where it is to be routed, or turned away by a close code; `join` where it is absent. */
      readonly enter?: (half: Half) => void;
    }
  | {
      readonly ok: false;
      readonly httpStatus: number;
      readonly reason: string;
      readonly detail: string;
      readonly id: string;
      readonly userid: string;
    };

export interface EndpointParts {
  readonly relay: Relay;
  /** Takes in a half whose decision does not say how. */
  join(half: Half): void;
  readonly addon: NativeAddon | undefined;
  /** Authentication and authorisation; may take its time, up to `pendingMs`. */
  decide(request: UpgradeRequest): Decision | Promise<Decision>;
  clientAddress(claims: AddressClaims): string;
  /** `auth.pendingMs`. */
  pendingMs(): number;
  /** `relay.highWaterBytes`: what may be kept for a waiting half that cannot be paused. */
  maxEarlyBytes(): number;
  /** False while the server takes no new halves (R39). */
  accepting(): boolean;
  refused(request: UpgradeRequest, refusal: Extract<Decision, { ok: false }>): void;
  limitHit(limit: AdmissionLimit | 'auth-timeout', request: UpgradeRequest): void;
  /** A half's `decide` threw, a bug or a failed hook: the half is refused with 503. */
  failed(error: unknown): void;
}

/** uWebSockets.js's own limit per message on the portable path; the forwarder checks the configured one. */
const uwsMaxPayloadBytes = 0x7fffffff;

const limitStatus: Record<AdmissionLimit, number> = { waiting: 503, 'waiting-address': 429, rate: 429 };
const noDomain = 'no such relay path';

/** The WebSocket endpoint of relay halves (R1): request, decision, upgrade, and then the half is the relay's. */
export class RelayEndpoint {
  /** Upgrades whose decision is under way. */
  pendingUpgrades = 0;
  readonly #parts: EndpointParts;
  readonly #plainSockets: HalfSocketParts;
  readonly #tlsSockets: HalfSocketParts;
  /** Halves whose sockets are open, also those that are being closed. */
  #open = 0;
  #onEmpty: (() => void)[] = [];

  constructor(parts: EndpointParts) {
    this.#parts = parts;
    const { relay, addon } = parts;
    const closed = (half: Half) => this.#closed(half);
    const flooded = (half: Half) => relay.flooded(half);
    this.#plainSockets = { addon, ssl: false, isLink: false, closed, flooded };
    this.#tlsSockets = { addon, ssl: true, isLink: false, closed, flooded };
  }

  /** Puts the endpoint on an app; its messages are uWebSockets.js's only on the portable path. */
  register(app: TemplatedApp, ssl: boolean, maxMessageBytes: number): void {
    app.ws<HalfData>('/*', {
      compression: 0, // permessage-deflate is never accepted (R42)
      maxPayloadLength: Math.min(maxMessageBytes === 0 ? uwsMaxPayloadBytes : maxMessageBytes, uwsMaxPayloadBytes),
      maxBackpressure: 0,
      closeOnBackpressureLimit: false,
      // Counts received data only, so it would kill a paused half; keepalive is the forwarder's (R21).
      idleTimeout: 0,
      maxLifetime: 0,
      sendPingsAutomatically: false,
      upgrade: (res, req, context) => this.#upgrade(res, req, context, ssl),
      open: (ws: WebSocket<HalfData>) => {
        openSockets.add(ws);
        ws.getUserData().couplet.opened(ws);
      },
      message: (ws, data, isBinary) => ws.getUserData().couplet.message(data, isBinary),
      drain: (ws) => ws.getUserData().couplet.drained(),
      ping: (ws) => ws.getUserData().couplet.pinged(),
      pong: (ws) => ws.getUserData().couplet.pong(),
      close: (ws, code, reason) => {
        openSockets.delete(ws);
        ws.getUserData().couplet.socketClosed(code, reason);
      },
    });
  }

  /** Resolves when every half's socket is closed, so that no close frame is cut off; after `withinMs` at the latest. */
  allClosed(withinMs: number): Promise<void> {
    if (this.#open === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs);
      this.#onEmpty.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #upgrade(res: HttpResponse, req: HttpRequest, context: us_socket_context_t, ssl: boolean): void {
    const domain = relayPathDomain(req.getUrl());
    if (domain === undefined) return respond(res, 404, noDomain);
    if (!this.#parts.accepting()) return respond(res, 503, 'the server is going away');
    const address = this.#parts.clientAddress(addressClaims(res, req));
    const request: UpgradeRequest = {
      domain,
      // The typings hide that there is none where the URL has no `?`.
      query: (req.getQuery() as string | undefined) ?? '',
      address,
      origin: req.getHeader('origin'),
      host: req.getHeader('host'),
      cookie: req.getHeader('cookie'),
      scheme: ssl ? 'https' : 'http',
    };
    const key = req.getHeader('sec-websocket-key');
    if (!this.#parts.relay.limits.admitUpgrade(address)) return this.#refuseByLimit(res, 'rate', request);

    this.#follow(() => this.#parts.decide(request), new PendingUpgrade(res, key, context, ssl), request);
  }

  #follow(decide: () => Decision | Promise<Decision>, upgrade: PendingUpgrade, request: UpgradeRequest): void {
    let decision: Decision | Promise<Decision>;
    try {
      decision = decide();
    } catch (error) {
      this.#parts.failed(error);
      return respond(upgrade.res, 503, 'the server cannot decide on this request');
    }
    if (decision instanceof Promise) this.#wait(decision, upgrade, request);
    else this.#finish(decision, upgrade, request);
  }

  /** Nothing times a pending upgrade out but this (fault 6); a client that went meanwhile is left alone (fault 5). */
  #wait(decision: Promise<Decision>, upgrade: PendingUpgrade, request: UpgradeRequest): void {
    this.pendingUpgrades++;
    upgrade.waited = true;
    let over = false;
    const once = (then: () => void) => {
      if (over) return;
      over = true;
      this.pendingUpgrades--;
      clearTimeout(timer);
      if (!upgrade.aborted) then();
    };
    const timer = setTimeout(
      () => once(() => this.#refuseByLimit(upgrade.res, 'auth-timeout', request)),
      this.#parts.pendingMs(),
    );
    upgrade.res.onAborted(() => {
      upgrade.aborted = true;
      once(() => {});
    });
    decision.then(
      (decided) => once(() => this.#finish(decided, upgrade, request)),
      (error: unknown) => {
        this.#parts.failed(error);
        once(() => respond(upgrade.res, 503, 'the server cannot decide on this request'));
      },
    );
  }

  #finish(decision: Decision, upgrade: PendingUpgrade, request: UpgradeRequest): void {
    if (!decision.ok) {
      this.#parts.refused(request, decision);
      return respond(upgrade.res, decision.httpStatus, '');
    }
    if (!this.#parts.accepting()) return respond(upgrade.res, 503, 'the server is going away');
    const limit = this.#parts.relay.admitHalf(decision.admission);
    if (limit !== undefined) return this.#refuseByLimit(upgrade.res, limit, request);
    if (decision.confirm !== undefined) return this.#follow(decision.confirm, upgrade, request);
    const parts = upgrade.ssl ? this.#tlsSockets : this.#plainSockets;
    const socket = new UwsHalfSocket(parts, this.#parts.maxEarlyBytes());
    const half = new Half(decision.admission, socket);
    socket.half = half;
    this.#open++;
    upgrade.accept({ couplet: socket });
    if (decision.enter === undefined) this.#parts.join(half);
    else decision.enter(half);
  }

  #closed(half: Half): void {
    this.#open--;
    this.#parts.relay.left(half);
    if (this.#open === 0) for (const resolve of this.#onEmpty.splice(0)) resolve();
  }

  #refuseByLimit(res: HttpResponse, limit: AdmissionLimit | 'auth-timeout', request: UpgradeRequest): void {
    this.#parts.limitHit(limit, request);
    respond(res, limit === 'auth-timeout' ? 503 : limitStatus[limit], '');
  }
}

class PendingUpgrade {
  aborted = false;
  /** Its decision was waited for: the request's callback is over. */
  waited = false;
  readonly res: HttpResponse;
  readonly ssl: boolean;
  readonly #key: string;
  readonly #context: us_socket_context_t;

  constructor(res: HttpResponse, key: string, context: us_socket_context_t, ssl: boolean) {
    this.res = res;
    this.ssl = ssl;
    this.#key = key;
    this.#context = context;
  }

  /**
   * Answers 101 without a subprotocol and without extensions (R42). The WebSocket's `open` has run when it returns.
   *
   * The response's own `cork` must not take hold: where the socket stays in its place in memory, uWebSockets.js goes on
   * to take it for an HTTP one after the upgrade, and may close it for what it reads there. In the request's callback
   * everything is corked already; later another open socket, corked around it, does as much. Where none is open there is
   * no cork at all, which uWebSockets.js remarks on by a line on stderr.
   */
  accept(data: HalfData): void {
    const other = openSockets.any();
    const upgrade = () => this.res.upgrade(data, this.#key, '', '', this.#context);
    if (!this.waited) this.res.cork(upgrade);
    else if (other === undefined) upgrade();
    else other.cork(() => this.res.cork(upgrade));
  }
}
