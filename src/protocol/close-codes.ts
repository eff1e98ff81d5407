/** WebSocket close codes the relay sends (R27). The reason text beside a code names the rule that was applied. */
export const closeCodes = {
  normal: 1000,
  goingAway: 1001,
  protocolError: 1002,
  tooBig: 1009,
  expired: 4401,
  denied: 4403,
  deviceOffline: 4404,
  noPeer: 4408,
  duplicate: 4409,
  revoked: 4410,
  limit: 4429,
  recordingFailed: 4500,
  peerError: 4502,
  slow: 4503,
  idle: 4504,
} as const;

export type CloseCode = (typeof closeCodes)[keyof typeof closeCodes];
