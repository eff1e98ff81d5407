import {
  type DirectoryChangedFacts,
  directoryChangedFields,
  type LoginEndedFacts,
  type LoginFacts,
  type LoginFailedFacts,
  loginEndedFields,
  loginFailedFields,
  loginFields,
  type RecordingDownloadedFacts,
  type RecordingsListedFacts,
  type RecordingViewedFacts,
  recordingDownloadedFields,
  recordingsListedFields,
  recordingViewedFields,
  type SessionKilledFacts,
  type SessionRevokedFacts,
  sessionKilledFields,
  sessionRevokedFields,
  type TokenCreatedFacts,
  type TokenFacts,
  tokenCreatedFields,
  tokenRevokedFields,
} from './directory-fields.ts';
import { Emitter } from './emitter.ts';
import {
  type AgentOfflineFacts,
  type AgentOnlineFacts,
  type AgentRefusedFacts,
  type AgentReplacedFacts,
  agentOfflineFields,
  agentOnlineFields,
  agentRefusedFields,
  agentReplacedFields,
  type DeviceEnrolledFacts,
  type DeviceRevokedFacts,
  deviceEnrolledFields,
  deviceRevokedFields,
  type ShareCreatedFacts,
  type ShareRevokedFacts,
  type ShareUsedFacts,
  shareCreatedFields,
  shareRevokedFields,
  shareUsedFields,
  type TunnelFacts,
  type TunnelFailedFacts,
  type TunnelRefusedFacts,
  tunnelFailedFields,
  tunnelRefusedFields,
  tunnelSentFields,
} from './routing-fields.ts';

/**
 * The events of whoever may do what: tunnels, shares, agents, logins, API tokens, the directory, and looks at recordings
 * (R30). One function each; none throws, none waits.
 */
export abstract class AccessEvents extends Emitter {
  sessionKilled(facts: SessionKilledFacts): void {
    this.emit('sessionKilled', () => sessionKilledFields(facts));
  }

  /** T4. */
  sessionRevoked(facts: SessionRevokedFacts): void {
    this.emit('sessionRevoked', () => sessionRevokedFields(facts));
  }

  /** R38. */
  recordingViewed(facts: RecordingViewedFacts): void {
    this.emit('recordingViewed', () => recordingViewedFields(facts));
  }

  /** R38. */
  recordingDownloaded(facts: RecordingDownloadedFacts): void {
    this.emit('recordingDownloaded', () => recordingDownloadedFields(facts));
  }

  /** R38. */
  recordingsListed(facts: RecordingsListedFacts): void {
    this.emit('recordingsListed', () => recordingsListedFields(facts));
  }

  /** T6. */
  tunnelSent(facts: TunnelFacts): void {
    this.emit('tunnelSent', () => tunnelSentFields(facts));
  }

  /** T5, T7: the true reason stands here and nowhere else. */
  tunnelRefused(facts: TunnelRefusedFacts): void {
    this.emit('tunnelRefused', () => tunnelRefusedFields(facts));
  }

  /** T8, T11. */
  tunnelFailed(facts: TunnelFailedFacts): void {
    this.emit('tunnelFailed', () => tunnelFailedFields(facts));
  }

  /** T15. */
  shareUsed(facts: ShareUsedFacts): void {
    this.emit('shareUsed', () => shareUsedFields(facts));
  }

  /** T15. */
  shareCreated(facts: ShareCreatedFacts): void {
    this.emit('shareCreated', () => shareCreatedFields(facts));
  }

  /** T15. */
  shareRevoked(facts: ShareRevokedFacts): void {
    this.emit('shareRevoked', () => shareRevokedFields(facts));
  }

  /** T9. */
  agentOnline(facts: AgentOnlineFacts): void {
    this.emit('agentOnline', () => agentOnlineFields(facts));
  }

  /** T10. */
  agentOffline(facts: AgentOfflineFacts): void {
    this.emit('agentOffline', () => agentOfflineFields(facts));
  }

  /** T9. */
  agentReplaced(facts: AgentReplacedFacts): void {
    this.emit('agentReplaced', () => agentReplacedFields(facts));
  }

  /** T9: the true reason stands here and nowhere else. */
  agentRefused(facts: AgentRefusedFacts): void {
    this.emit('agentRefused', () => agentRefusedFields(facts));
  }

  /** T9. */
  deviceEnrolled(facts: DeviceEnrolledFacts): void {
    this.emit('deviceEnrolled', () => deviceEnrolledFields(facts));
  }

  /** T9. */
  deviceRevoked(facts: DeviceRevokedFacts): void {
    this.emit('deviceRevoked', () => deviceRevokedFields(facts));
  }

  login(facts: LoginFacts): void {
    this.emit('login', () => loginFields(facts));
  }

  /** R8: the true reason stands here and nowhere else. */
  loginFailed(facts: LoginFailedFacts): void {
    this.emit('loginFailed', () => loginFailedFields(facts));
  }

  loginEnded(facts: LoginEndedFacts): void {
    this.emit('loginEnded', () => loginEndedFields(facts));
  }

  /** Carries no secret. */
  tokenCreated(facts: TokenCreatedFacts): void {
    this.emit('tokenCreated', () => tokenCreatedFields(facts));
  }

  tokenRevoked(facts: TokenFacts): void {
    this.emit('tokenRevoked', () => tokenRevokedFields(facts));
  }

  /** R30. One for each change that was made; one that was refused is none. */
  directoryChanged(facts: DirectoryChangedFacts): void {
    this.emit('directoryChanged', () => directoryChangedFields(facts));
  }
}
