import { AccessEvents } from './access-events.ts';
import type { EventsOptions } from './emitter.ts';
import {
  endFields,
  type HalfRefusedFacts,
  type HoldExpiredFacts,
  type LimitHitFacts,
  type PairingRefusedFacts,
  type ProtocolMismatchFacts,
  type SessionEndFacts,
  type SessionFacts,
  startFields,
} from './fields.ts';
import { LimitHits } from './limit-hits.ts';
import {
  type RecordingDeletedFacts,
  type RecordingFailedFacts,
  type RecordingFinishedFacts,
  type RecordingIndexFailedFacts,
  type RecordingRetentionFailedFacts,
  type RecordingSalvagedFacts,
  type RecordingSalvageFailedFacts,
  type RecordingStartedFacts,
  recordingDeletedFields,
  recordingFailedFields,
  recordingFinishedFields,
  recordingIndexFailedFields,
  recordingRetentionFailedFields,
  recordingSalvagedFields,
  recordingSalvageFailedFields,
  recordingStartedFields,
} from './recording-fields.ts';

export type { EventsOptions } from './emitter.ts';

const LIMIT_WINDOW_MS = 10_000;

/**
 * The business events of the server: one function each (R30). None throws, none waits; whatever a sink does, the
 * caller goes on (R32, fault 51).
 */
export class Events extends AccessEvents {
  readonly #limitHits: LimitHits;
  readonly #sweeper: NodeJS.Timeout;

  constructor(options: EventsOptions) {
    super(options);
    this.#limitHits = new LimitHits(this.clock, LIMIT_WINDOW_MS, (key, count) => this.#tellLimit(key, count));
    this.#sweeper = setInterval(() => this.#limitHits.sweep(), LIMIT_WINDOW_MS).unref();
  }

  /** R29. */
  sessionStarted(facts: SessionFacts): void {
    this.emit('sessionStarted', () => startFields(facts));
  }

  /** R28, R29. */
  sessionEnded(facts: SessionEndFacts): void {
    this.emit('sessionEnded', () => endFields(facts));
  }

  /** R8: the true reason stands here and nowhere else. */
  halfRefused(facts: HalfRefusedFacts): void {
    this.emit('halfRefused', () => ({
      etype: 'relay',
      action: 'halfrefused',
      domain: facts.domain,
      id: facts.id,
      address: facts.address,
      userid: facts.userid,
      nodeid: facts.nodeid,
      reason: facts.reason,
      status: facts.status,
      msg: `Refused a half for session "${facts.id}" from ${facts.address}: ${facts.reason}`,
    }));
  }

  /** R16, R17, R18. */
  pairingRefused(facts: PairingRefusedFacts): void {
    this.emit('pairingRefused', () => ({
      etype: 'relay',
      action: 'pairingrefused',
      domain: facts.domain,
      id: facts.id,
      address: facts.address,
      userid: facts.userid,
      nodeid: facts.nodeid,
      waitinguserid: facts.waitingUserid,
      reason: facts.reason,
      outcome: facts.outcome,
      closecode: facts.closeCode,
      msg: `Refused to pair a half for session "${facts.id}" from ${facts.address}: ${facts.reason}`,
    }));
  }

  /** R15. */
  holdExpired(facts: HoldExpiredFacts): void {
    this.emit('holdExpired', () => ({
      etype: 'relay',
      action: 'holdexpired',
      domain: facts.domain,
      id: facts.id,
      address: facts.address,
      userid: facts.userid,
      username: facts.username,
      protocol: facts.protocol,
      nodeid: facts.nodeid,
      outcome: 'no-peer',
      heldms: Math.round(facts.heldMs),
      msg: `No mate came for session "${facts.id}" from ${facts.address} within ${Math.round(facts.heldMs)} ms`,
    }));
  }

  /** R3. */
  protocolMismatch(facts: ProtocolMismatchFacts): void {
    this.emit('protocolMismatch', () => ({
      etype: 'relay',
      action: 'protocolmismatch',
      domain: facts.domain,
      id: facts.id,
      userid: facts.userid,
      field: facts.field,
      uservalue: String(facts.userValue),
      devicevalue: String(facts.deviceValue),
      msg: `The halves of session "${facts.id}" differ in ${facts.field}: user half "${facts.userValue}", device half "${facts.deviceValue}"; the user half's counts`,
    }));
  }

  /** R26. Without a session id, repeated hits of one limit by one address are told together every 10 s. */
  limitHit(facts: LimitHitFacts): void {
    if (facts.id !== undefined) {
      this.#tellLimit(facts, 1);
      return;
    }
    this.#limitHits.hit(facts.limit, facts.address);
  }

  /** R35. */
  recordingStarted(facts: RecordingStartedFacts): void {
    this.emit('recordingStarted', () => recordingStartedFields(facts));
  }

  /** R35, R36. */
  recordingFailed(facts: RecordingFailedFacts): void {
    this.emit('recordingFailed', () => recordingFailedFields(facts));
  }

  recordingFinished(facts: RecordingFinishedFacts): void {
    this.emit('recordingFinished', () => recordingFinishedFields(facts));
  }

  /** R37: a file that was repaired or removed; those left as they are go to `recordingSalvageFailed`. */
  recordingSalvaged(facts: RecordingSalvagedFacts): void {
    this.emit('recordingSalvaged', () => recordingSalvagedFields(facts));
  }

  /** R37: a file that was left as it is, because it cannot be written or repairing it would lose too much. */
  recordingSalvageFailed(facts: RecordingSalvageFailedFacts): void {
    this.emit('recordingSalvageFailed', () => recordingSalvageFailedFields(facts));
  }

  /** R38. */
  recordingDeleted(facts: RecordingDeletedFacts): void {
    this.emit('recordingDeleted', () => recordingDeletedFields(facts));
  }

  recordingIndexFailed(facts: RecordingIndexFailedFacts): void {
    this.emit('recordingIndexFailed', () => recordingIndexFailedFields(facts));
  }

  /** R38: once for a folder and sweep, however many files it is about. */
  recordingRetentionFailed(facts: RecordingRetentionFailedFacts): void {
    this.emit('recordingRetentionFailed', () => recordingRetentionFailedFields(facts));
  }

  /** @param listen addresses that accept connections. */
  serverStarted(facts: { version: string; pid: number; listen: readonly string[]; forwarder: string }): void {
    this.emit('serverStarted', () => ({
      etype: 'server',
      action: 'started',
      ...facts,
      msg: `Couplet ${facts.version} started on ${facts.listen.join(', ')}`,
    }));
  }

  serverStopped(facts: { pid: number; reason: string; uptimeMs: number }): void {
    const seconds = Math.floor(facts.uptimeMs / 1000);
    this.emit('serverStopped', () => ({
      etype: 'server',
      action: 'stopped',
      pid: facts.pid,
      reason: facts.reason,
      seconds,
      msg: `Couplet stopped after ${seconds} second(s): ${facts.reason}`,
    }));
  }

  /** R40. @param changed names of settings, never their values. */
  configurationReloaded(changed: readonly string[]): void {
    this.emit('configurationReloaded', () => ({
      etype: 'server',
      action: 'configurationreloaded',
      changed,
      msg: `Configuration reloaded; changed: ${changed.length > 0 ? changed.join(', ') : 'nothing'}`,
    }));
  }

  /** R40. @param error the one-line message of the CoupletError. */
  configurationReloadRefused(error: string): void {
    this.emit('configurationReloadRefused', () => ({
      etype: 'server',
      action: 'configurationreloadrefused',
      error,
      msg: `Configuration not reloaded, the old one stays in use: ${error}`,
    }));
  }

  /** R40. @param facts.fingerprint SHA-256 of the certificate. @param facts.notAfterMs end of its validity, epoch ms. */
  certificateReplaced(facts: { listen: string; fingerprint: string; notAfterMs: number }): void {
    this.emit('certificateReplaced', () => {
      const notafter = new Date(facts.notAfterMs).toISOString();
      return {
        etype: 'server',
        action: 'certificatereplaced',
        listen: facts.listen,
        fingerprint: facts.fingerprint,
        notafter,
        msg: `Certificate of ${facts.listen} replaced by ${facts.fingerprint}, valid until ${notafter}`,
      };
    });
  }

  /** R41. @param facts.reason the error's name, `EMFILE` or `ENFILE`. */
  listenerResting(facts: { listen: string; reason: string }): void {
    this.emit('listenerResting', () => ({
      etype: 'server',
      action: 'listenerresting',
      ...facts,
      msg: `Listener ${facts.listen} rests: ${facts.reason}`,
    }));
  }

  /** R41. */
  listenerRecovered(facts: { listen: string; restedMs: number }): void {
    this.emit('listenerRecovered', () => ({
      etype: 'server',
      action: 'listenerrecovered',
      listen: facts.listen,
      restedms: Math.round(facts.restedMs),
      msg: `Listener ${facts.listen} accepts again after ${Math.round(facts.restedMs)} ms`,
    }));
  }

  forwarderSelfTestFailed(reason: string): void {
    this.emit('forwarderSelfTestFailed', () => ({
      etype: 'server',
      action: 'forwarderselftestfailed',
      reason,
      msg: `The native forwarder failed its self-test: ${reason}`,
    }));
  }

  portablePathInUse(reason: string): void {
    this.emit('portablePathInUse', () => ({
      etype: 'server',
      action: 'portablepathinuse',
      reason,
      msg: `Messages take the portable path: ${reason}`,
    }));
  }

  /** What a sink missed is itself on record, also in that sink. */
  eventsLost(sink: string, count: number): void {
    this.emit('eventsLost', () => ({
      etype: 'server',
      action: 'eventslost',
      sink,
      count,
      msg: `${count} event(s) lost by the sink ${sink}`,
    }));
  }

  /** K6. @param facts.redis where it is, without user and password. */
  redisLost(facts: { redis: string; reason: string }): void {
    this.emit('redisLost', () => ({
      etype: 'cluster',
      action: 'redislost',
      ...facts,
      msg: `Redis ${facts.redis} cannot be used: ${facts.reason}`,
    }));
  }

  /** K6. */
  redisBack(facts: { redis: string; downMs: number }): void {
    const downms = Math.round(facts.downMs);
    this.emit('redisBack', () => ({
      etype: 'cluster',
      action: 'redisback',
      redis: facts.redis,
      downms,
      msg: `Redis ${facts.redis} can be used again after ${downms} ms`,
    }));
  }

  /** K1. @param facts.server its boot id. */
  serverJoined(facts: { server: string; link: string; version: string }): void {
    this.emit('serverJoined', () => ({
      etype: 'cluster',
      action: 'serverjoined',
      ...facts,
      msg: `Server ${facts.link} of the cluster is there`,
    }));
  }

  /** K7. */
  serverGone(facts: { server: string; link: string; version: string }): void {
    this.emit('serverGone', () => ({
      etype: 'cluster',
      action: 'servergone',
      ...facts,
      msg: `Server ${facts.link} of the cluster is gone`,
    }));
  }

  /** K8. @param reason the one-line message of the CoupletError. */
  directoryConflict(reason: string): void {
    this.emit('directoryConflict', () => ({
      etype: 'cluster',
      action: 'directoryconflict',
      reason,
      msg: `Kept out of the cluster: ${reason}`,
    }));
  }

  /**
   * Tells what is still counted, then closes the sinks.
   * @param deadlineMs a sink that has not closed by then is given up on and counted as failed.
   */
  async close(deadlineMs = 5_000): Promise<void> {
    clearInterval(this.#sweeper);
    this.#limitHits.sweep(true);
    await this.closeSinks(deadlineMs);
  }

  #tellLimit(facts: LimitHitFacts, count: number): void {
    this.emit('limitHit', () => ({
      etype: 'relay',
      action: 'limithit',
      limit: facts.limit,
      count,
      address: facts.address,
      domain: facts.domain,
      id: facts.id,
      userid: facts.userid,
      msg: `Limit ${facts.limit} reached by ${facts.address === '' ? 'several addresses' : facts.address}, ${count} time(s)`,
    }));
  }
}
