/** The one word for why a rendezvous ended (R28): metric label, field of the end event, documented. */
export const outcomes = [
  'normal',
  'no-peer',
  'denied',
  'duplicate',
  'expired',
  'revoked',
  'limit',
  'idle',
  'slow',
  'peer-error',
  'recording-failed',
  'shutdown',
] as const;

export type Outcome = (typeof outcomes)[number];
