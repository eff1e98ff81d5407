import { setTimeout as delay } from 'node:timers/promises';
import { createApiEvents } from '../api/audit-events.ts';
import type { ApiParts } from '../api/parts.ts';
import { Router } from '../api/router.ts';
import { allRoutes } from '../api/routes/index.ts';
import type { Events } from '../audit/events.ts';
import { packageVersion } from '../core/version.ts';
import { RecordingCatalog } from '../recording/catalog.ts';
import { RecordingJobs } from '../recording/jobs.ts';
import type { Relay } from '../relay/relay.ts';
import { ApiEndpoint, type ApiEndpointParts } from '../server/api-endpoint.ts';
import { clusterSessions } from './cluster-sessions.ts';
import { liveSessions, localSessions } from './live-sessions.ts';
import type { PeerCalls } from './peer-calls.ts';

const lastJobMs = 5000;

export interface ApiServerParts
  extends Omit<ApiParts, 'events' | 'version' | 'sessions' | 'recordings'>,
    Pick<ApiEndpointParts, 'clientAddress' | 'admit' | 'accepting'> {
  readonly events: Events;
  readonly relay: Relay;
  /** [K9] The other servers, where there are any. */
  readonly peers?: PeerCalls | undefined;
  /** Every folder that may hold recordings. */
  readonly recordingFolders: () => readonly string[];
}

/** The API over HTTP, and what it alone needs. */
export class ApiServer {
  readonly #endpoint: ApiEndpoint;
  /** Its own, so that a listing does not wait behind a sweep or an indexing. */
  readonly #jobs: RecordingJobs;

  constructor(given: ApiServerParts) {
    const { events, relay, peers, recordingFolders: folders, clientAddress, admit, accepting, ...parts } = given;
    const { clock, directory, failed } = parts;
    const local = localSessions(relay, clock, directory);
    this.#jobs = new RecordingJobs({ onProblem: failed });
    const router = new Router(
      {
        ...parts,
        events: createApiEvents(events),
        sessions: peers === undefined ? liveSessions(local) : clusterSessions(local, peers),
        recordings: new RecordingCatalog({ folders, jobs: this.#jobs }),
        version: packageVersion(),
      },
      allRoutes,
    );
    this.#endpoint = new ApiEndpoint({ dispatch: router.dispatch, clientAddress, admit, accepting, failed });
  }

  register(app: Parameters<ApiEndpoint['register']>[0], ssl: boolean): void {
    this.#endpoint.register(app, ssl);
  }

  /** Ends downloads and event streams; new requests are turned away by then. */
  endStreams(): void {
    this.#endpoint.close();
  }

  /** A thread that a disk holds does not end: it is not waited for. */
  async close(): Promise<void> {
    this.endStreams();
    await Promise.race([this.#jobs.close(), delay(lastJobMs, undefined, { ref: false })]);
  }
}
