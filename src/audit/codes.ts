/** One kind of event (R30). The code is stable: it is never given to another kind, and never changes its meaning. */
export interface EventKind {
  /** `CPL-` four digits and a level: `I` information, `W` warning, `E` error. */
  readonly code: `CPL-${string}`;
  /** One line; the documentation carries the same words. */
  readonly description: string;
  /** Fields beside `time`, `code`, `etype`, `action` and `msg`, which every event has; `?`: only where it applies. */
  readonly fields: readonly string[];
}

const sessionFields = [
  'domain',
  'userid',
  'username',
  'guestname?',
  'shareid?',
  'msgid',
  'msgArgs',
  'protocol',
  'nodeid',
] as const;
const tunnelFields = ['domain', 'userid', 'guestname?', 'shareid?', 'nodeid', 'id'] as const;
const shareFields = ['domain', 'userid', 'nodeid', 'shareid', 'guestname'] as const;
const tokenFields = ['domain', 'userid', 'username', 'tokenid', 'tokenname', 'actorid?'] as const;
const endedFields = ['domain', 'id', 'userid', 'nodeid', 'protocol'] as const;
const viewFields = ['domain', 'userid', 'username', 'address'] as const;
const recordedFields = ['domain', 'userid', 'username', 'id', 'protocol', 'nodeid', 'mode'] as const;

/**
 * Every kind of event that this version emits, by the name of the function of {@link Events} that emits it.
 * 10xx sessions, 11xx what did not become one, 12xx recordings, 13xx tunnels and shares, 14xx agents, 15xx logins and API
 * tokens, 16xx the directory, 20xx the server. `docs/reference/events.md` is held equal by a test.
 */
export const eventKinds = {
  sessionStarted: {
    code: 'CPL-1001I',
    description: 'Two halves were paired and forwarding starts.',
    fields: sessionFields,
  },
  sessionEnded: {
    code: 'CPL-1002I',
    description: 'A session ended; carries its one outcome and its counters.',
    fields: [
      ...sessionFields,
      'seconds',
      'bytesin',
      'bytesout',
      'messagesin',
      'messagesout',
      'outcome',
      'closedby',
      'throttledms',
      'recording?',
    ],
  },
  sessionKilled: {
    code: 'CPL-1003I',
    description: 'Somebody ended a running session; its end event follows.',
    fields: [...endedFields, 'actorid'],
  },
  sessionRevoked: {
    code: 'CPL-1004I',
    description: 'A running session is not allowed any more and is closed with 4410; its end event follows.',
    fields: [...endedFields, 'reason'],
  },
  halfRefused: {
    code: 'CPL-1101W',
    description: 'A half was refused before the upgrade; carries the true reason, which the peer is not told.',
    fields: ['domain', 'id', 'address', 'userid?', 'nodeid?', 'reason', 'status'],
  },
  pairingRefused: {
    code: 'CPL-1102W',
    description: 'A half was closed instead of being paired; the halves that were there first are untouched.',
    fields: ['domain', 'id', 'address', 'userid', 'nodeid', 'waitinguserid', 'reason', 'outcome', 'closecode'],
  },
  holdExpired: {
    code: 'CPL-1103I',
    description: 'A waiting half was closed because no mate came in time.',
    fields: ['domain', 'id', 'address', 'userid', 'username', 'protocol', 'nodeid', 'outcome', 'heldms'],
  },
  protocolMismatch: {
    code: 'CPL-1104W',
    description: "The two halves named different protocols or devices; the user half's value counts.",
    fields: ['domain', 'id', 'userid', 'field', 'uservalue', 'devicevalue'],
  },
  limitHit: {
    code: 'CPL-1105W',
    description: 'A limit was reached; repeated hits from one address before a session are counted into one event.',
    fields: ['limit', 'count', 'address', 'domain?', 'id?', 'userid?'],
  },
  recordingStarted: {
    code: 'CPL-1201I',
    description: 'The file of a recording was made, and its session is recorded from here on.',
    fields: [...recordedFields, 'file'],
  },
  recordingFailed: {
    code: 'CPL-1202E',
    description: 'A session is not recorded, or not any more, or without the sidecar; carries what became of it.',
    fields: [...recordedFields, 'file?', 'reason', 'consequence'],
  },
  recordingFinished: {
    code: 'CPL-1203I',
    description: 'A recording ended and all of it is written.',
    fields: [...recordedFields, 'file', 'bytes', 'blocks?', 'complete'],
  },
  recordingSalvaged: {
    code: 'CPL-1204W',
    description: 'A recording that a crash had left unfinished was put in order at the start.',
    fields: ['file', 'state', 'offset?', 'cutbytes?', 'text'],
  },
  recordingSalvageFailed: {
    code: 'CPL-1205E',
    description: 'A recording that is not in order was left as it is at the start.',
    fields: ['file', 'reason'],
  },
  recordingDeleted: {
    code: 'CPL-1206I',
    description: 'A recording and its sidecar were deleted.',
    fields: ['domain?', 'userid?', 'username?', 'address?', 'file', 'bytes', 'reason'],
  },
  recordingIndexFailed: {
    code: 'CPL-1207W',
    description: 'A finished recording could not be indexed; it plays, but players cannot seek in it.',
    fields: ['file', 'reason'],
  },
  recordingRetentionFailed: {
    code: 'CPL-1208E',
    description:
      'Recordings over the limits could not be deleted, or not be looked for; one event per folder and sweep.',
    fields: ['folder', 'file?', 'count?', 'reason'],
  },
  recordingViewed: {
    code: 'CPL-1209I',
    description: 'A recording was looked at, not downloaded: what its header, end and sidecar tell.',
    fields: [...viewFields, 'file'],
  },
  recordingDownloaded: {
    code: 'CPL-1210I',
    description: 'A recording, or a part of it, was sent to somebody; written when the sending has ended.',
    fields: [...viewFields, 'file', 'range?', 'bytes', 'complete'],
  },
  recordingsListed: {
    code: 'CPL-1211I',
    description: 'Somebody listed recordings; one event per page.',
    fields: [...viewFields, 'count'],
  },
  tunnelSent: {
    code: 'CPL-1301I',
    description: 'A tunnel command was sent to an agent.',
    fields: [...tunnelFields, 'username', 'protocol', 'target'],
  },
  tunnelRefused: {
    code: 'CPL-1302W',
    description: 'A user half with a routing instruction was closed; carries the true reason.',
    fields: [...tunnelFields, 'address', 'protocol?', 'target?', 'reason'],
  },
  tunnelFailed: {
    code: 'CPL-1303W',
    description: 'An agent refused a tunnel command, or could not do what it asks.',
    fields: ['domain', 'userid?', 'nodeid', 'id', 'state', 'reason', 'detail'],
  },
  shareUsed: {
    code: 'CPL-1304I',
    description: 'A guest came by a share and was let in.',
    fields: [...shareFields, 'id', 'address', 'protocol'],
  },
  shareCreated: {
    code: 'CPL-1305I',
    description: 'A share was made.',
    fields: [...shareFields, 'username', 'protocols', 'expires', 'viewonly'],
  },
  shareRevoked: {
    code: 'CPL-1306I',
    description: 'A share was revoked.',
    fields: [...shareFields, 'actorid'],
  },
  agentOnline: {
    code: 'CPL-1401I',
    description: 'An agent proved its device and is online.',
    fields: ['domain', 'nodeid', 'address', 'hostname?', 'platform?', 'version?'],
  },
  agentOffline: {
    code: 'CPL-1402I',
    description: 'The control channel of a device that was online ended.',
    fields: ['domain', 'nodeid', 'address', 'reason', 'seconds'],
  },
  agentReplaced: {
    code: 'CPL-1403W',
    description: 'A newer connection of the same device took over; the older one was closed.',
    fields: ['domain', 'nodeid', 'address', 'replacedaddress'],
  },
  agentRefused: {
    code: 'CPL-1404W',
    description: 'An agent was not let in; carries the true reason, which the agent is not told.',
    fields: ['domain?', 'nodeid?', 'address', 'reason'],
  },
  deviceEnrolled: {
    code: 'CPL-1405I',
    description: 'A device used its join code and registered its public key.',
    fields: ['domain', 'nodeid', 'address', 'hostname', 'fingerprint'],
  },
  deviceRevoked: {
    code: 'CPL-1406I',
    description: "A device's key was taken away; its agent is closed and stays out until it enrols again.",
    fields: ['domain', 'nodeid', 'userid', 'username'],
  },
  login: {
    code: 'CPL-1501I',
    description: 'A user logged in.',
    fields: ['domain', 'userid', 'username', 'address', 'loginid?'],
  },
  loginFailed: {
    code: 'CPL-1502W',
    description: 'A login failed; carries the true reason, which the peer is not told.',
    fields: ['domain', 'userid?', 'username', 'address', 'reason'],
  },
  loginEnded: {
    code: 'CPL-1503I',
    description: 'A login session was ended, by its user or by somebody else.',
    fields: ['domain', 'userid', 'username', 'loginid', 'reason', 'actorid?'],
  },
  tokenCreated: {
    code: 'CPL-1504I',
    description: 'An API token was made.',
    fields: [...tokenFields, 'scopes', 'expires?'],
  },
  tokenRevoked: {
    code: 'CPL-1505I',
    description: 'An API token was revoked.',
    fields: tokenFields,
  },
  directoryChanged: {
    code: 'CPL-1601I',
    description: 'Somebody changed the directory.',
    fields: ['domain', 'userid', 'username', 'actor', 'change', 'target', 'detail?', 'nodeid?'],
  },
  serverStarted: {
    code: 'CPL-2001I',
    description: 'The server started, with its event log open.',
    fields: ['version', 'pid', 'listen', 'forwarder'],
  },
  serverStopped: {
    code: 'CPL-2002I',
    description: 'The server stopped in order; the event log closes after this event.',
    fields: ['pid', 'reason', 'seconds'],
  },
  configurationReloaded: {
    code: 'CPL-2003I',
    description: 'A changed configuration was put into use.',
    fields: ['changed'],
  },
  configurationReloadRefused: {
    code: 'CPL-2004E',
    description: 'A changed configuration has an error; the old one stays in use.',
    fields: ['error'],
  },
  certificateReplaced: {
    code: 'CPL-2005I',
    description: 'New connections get a new TLS certificate; running sessions go on.',
    fields: ['listen', 'fingerprint', 'notafter'],
  },
  listenerResting: {
    code: 'CPL-2006E',
    description: 'The listener rests because the process has no file descriptors left.',
    fields: ['listen', 'reason'],
  },
  listenerRecovered: {
    code: 'CPL-2007I',
    description: 'The listener accepts connections again.',
    fields: ['listen', 'restedms'],
  },
  forwarderSelfTestFailed: {
    code: 'CPL-2008E',
    description: "The native forwarder failed its start-up self-test and isn't used.",
    fields: ['reason'],
  },
  portablePathInUse: {
    code: 'CPL-2009W',
    description: 'Messages are forwarded by the portable path, not by the native forwarder.',
    fields: ['reason'],
  },
  eventsLost: {
    code: 'CPL-2010E',
    description: 'A sink could not take events for so long that some are missing from it; written once it works again.',
    fields: ['sink', 'count'],
  },
  redisLost: {
    code: 'CPL-2101W',
    description: 'Redis cannot be used: halves pair on one server alone, and single-use cookies are refused.',
    fields: ['redis', 'reason'],
  },
  redisBack: {
    code: 'CPL-2102I',
    description: 'Redis can be used again.',
    fields: ['redis', 'downms'],
  },
  serverJoined: {
    code: 'CPL-2103I',
    description: 'Another server of the cluster is there, as this one sees it.',
    fields: ['server', 'link', 'version'],
  },
  serverGone: {
    code: 'CPL-2104I',
    description: 'Another server of the cluster stopped, or is dead, as this one sees it.',
    fields: ['server', 'link', 'version'],
  },
  directoryConflict: {
    code: 'CPL-2105E',
    description: 'This server is kept out of the cluster because the others use another directory.',
    fields: ['reason'],
  },
} as const satisfies Record<string, EventKind>;

export type EventName = keyof typeof eventKinds;

/** Common fields of every event, in the order in which they are written. */
export const commonFields = ['time', 'code', 'etype', 'action', 'msg'] as const;

/** The level that a code's last letter stands for. */
export function levelOf(code: string): 'info' | 'warn' | 'error' {
  return code.endsWith('E') ? 'error' : code.endsWith('W') ? 'warn' : 'info';
}
