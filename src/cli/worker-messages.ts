import type { LoadedConfig } from '../config/load.ts';
import type { MetricSnapshot } from '../metrics/merge.ts';

/*
 * What a supervising process and its workers say to each other, over the channel of child_process.fork (structured
 * clone). Orders go this way and not by signal: a terminal and a service manager signal every process of a group, and
 * two orders to stop mean haste.
 */

export interface Scrape {
  readonly body: string;
  readonly contentType: string;
}

/** An error as it travels: `code` is a CoupletError's, else empty. */
export interface ToldError {
  readonly code: `CPL_${string}` | '';
  readonly message: string;
}

export type ToWorker =
  /** The first message. The configuration is the supervisor's: all workers use one, also one that starts later. */
  | { readonly kind: 'start'; readonly loaded: LoadedConfig; readonly port: number }
  | { readonly kind: 'reload'; readonly id: number; readonly loaded: LoadedConfig }
  /** A reload came to nothing before any worker heard of it. */
  | { readonly kind: 'reload-refused'; readonly error: ToldError }
  /** Said twice: without the wait. */
  | { readonly kind: 'stop'; readonly reason: string }
  | { readonly kind: 'metrics' }
  | { readonly kind: 'scraped'; readonly id: number; readonly scrape: Scrape | undefined };

export type FromWorker =
  | {
      readonly kind: 'listening';
      readonly address: string;
      readonly port: number;
      readonly forwarderKind: string;
      readonly tls: boolean;
    }
  /** It could not start, and ends. */
  | { readonly kind: 'failed'; readonly error: ToldError }
  | { readonly kind: 'reloaded'; readonly id: number; readonly refused: boolean }
  /** `undefined`: they could not be read. */
  | { readonly kind: 'metrics'; readonly snapshot: MetricSnapshot | undefined }
  /** Somebody asks this worker for the metrics of all. */
  | { readonly kind: 'scrape'; readonly id: number };
