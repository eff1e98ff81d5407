import type { EventRecord } from '../audit/sink.ts';
import type { Admission, Identity } from '../relay/half.ts';
import type { UpgradeRequest } from '../server/relay-endpoint.ts';

/** What a program that uses Couplet as a library may bring along. Each hook may answer at once or with a promise. */
export interface RelayHooks {
  /**
   * Says who a half is, before its cookies are looked at. `undefined`: let the sealed cookies decide; `null`: refuse it
   * (401). Throwing or rejecting refuses with 503; so does taking longer than `auth.pendingMs`.
   */
  authenticate?(request: UpgradeRequest): Identity | null | undefined | Promise<Identity | null | undefined>;
  /** Whether an authenticated half may come in; `false` refuses it (403). Asked last, before the upgrade. */
  authorize?(half: Admission): boolean | Promise<boolean>;
  /** Every audit event, in order. What it throws is counted as a failure of the sink `hook`, and no more. */
  onEvent?(event: EventRecord): void | Promise<void>;
}
