import type { Events } from '../audit/events.ts';
import { parseId } from '../core/ids.ts';
import { printShareProtocols } from '../core/share-protocols.ts';
import type { ApiToken } from '../directory/directory.ts';
import type { Actor, ApiEvents, DirectoryChangeFacts } from './parts.ts';

/** The business events of the API as audit events [R30]: who did it becomes the event's user. */
export function createApiEvents(events: Events): ApiEvents {
  return {
    loggedIn: ({ userid, domain, address, loginId: loginid }) =>
      events.login({ domain, ...userFields(userid), address, loginid }),
    loginFailed: ({ name, domain, address, reason }) => events.loginFailed({ domain, username: name, address, reason }),
    loggedOut: ({ userid, domain, loginId: loginid }) =>
      events.loginEnded({ domain, ...userFields(userid), loginid, reason: 'logout' }),
    tokenCreated: ({ actor, domain, token }) => {
      const { scopes, expiresMs } = token;
      events.tokenCreated({ ...tokenFields(actor, domain, token), scopes, expiresMs });
    },
    tokenRevoked: ({ actor, domain, token }) => events.tokenRevoked(tokenFields(actor, domain, token)),
    directoryChanged: (facts) => directoryChanged(events, facts),
    shareCreated: ({ domain, share }) => {
      const { id: shareid, deviceId: nodeid, guestName: guestname, createdBy, expiresMs, viewOnly } = share;
      const protocols = printShareProtocols(share);
      const terms = { protocols, expiresMs, viewOnly };
      events.shareCreated({ domain, ...userFields(createdBy), nodeid, shareid, guestname, ...terms });
    },
    shareRevoked: ({ actor, domain, shareId: shareid, nodeid, guestname, createdBy: userid }) =>
      events.shareRevoked({ domain, userid, nodeid, shareid, guestname, actorid: actor.userid }),
    sessionKilled: ({ actor, ...session }) => events.sessionKilled({ ...session, actorid: actor.userid }),
    recordingsListed: ({ actor, domain, count }) => events.recordingsListed({ ...looker(actor, domain), count }),
    recordingViewed: ({ actor, domain, file }) => events.recordingViewed({ ...looker(actor, domain), file }),
    recordingDownloaded: ({ actor, domain, ...what }) =>
      events.recordingDownloaded({ ...looker(actor, domain), ...what }),
    recordingDeleted: ({ actor, domain, file, bytes }) =>
      events.recordingDeleted({ ...looker(actor, domain), file, bytes, reason: 'user' }),
  };
}

/** A user's name is part of the id; root has neither. */
function userFields(userid: string) {
  return { userid, username: parseId(userid)?.name ?? '' };
}

function looker({ userid, address }: Actor, domain: string) {
  return { domain, ...userFields(userid), address };
}

function byAnother({ userid }: Actor, owner: string): { actorid?: string } {
  return userid === owner ? {} : { actorid: userid };
}

function tokenFields(actor: Actor, domain: string, { id: tokenid, name: tokenname, userId }: ApiToken) {
  return { domain, ...userFields(userId), tokenid, tokenname, ...byAnother(actor, userId) };
}

function directoryChanged(events: Events, { actor, domain, action, target, detail }: DirectoryChangeFacts): void {
  const who = userFields(actor.userid);
  if (action === 'device-revoked') return events.deviceRevoked({ domain, nodeid: target, ...who });
  if (action === 'login-session-ended') {
    const ended = { domain, ...userFields(target), loginid: detail, reason: 'ended' };
    return events.loginEnded({ ...ended, ...byAnother(actor, target) });
  }
  const told = detail === '' ? undefined : detail;
  const via = actor.via === 'root' ? 'cli' : 'api';
  events.directoryChanged({ domain, ...who, actor: via, change: action, target, detail: told });
}
