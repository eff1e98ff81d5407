import type { Route } from '../route.ts';
import { accountRoutes } from './account.ts';
import { deviceGroupRoutes } from './device-groups.ts';
import { deviceRoutes } from './devices.ts';
import { documentRoute } from './document.ts';
import { domainRoutes } from './domains.ts';
import { eventRoutes } from './events.ts';
import { grantRoutes } from './grants.ts';
import { loginRoutes } from './login.ts';
import { recordingRoutes } from './recordings.ts';
import { sessionRoutes } from './sessions.ts';
import { shareRoutes } from './shares.ts';
import { tokenRoutes } from './tokens.ts';
import { tunnelRoutes } from './tunnels.ts';
import { userGroupRoutes } from './user-groups.ts';
import { userRoutes } from './users.ts';

/** Every route of the API, in the order of the document. */
export const allRoutes: readonly Route[] = [
  documentRoute(() => allRoutes),
  ...loginRoutes,
  ...accountRoutes,
  ...tokenRoutes,
  ...userRoutes,
  ...userGroupRoutes,
  ...domainRoutes,
  ...deviceGroupRoutes,
  ...deviceRoutes,
  ...grantRoutes,
  ...shareRoutes,
  ...tunnelRoutes,
  ...sessionRoutes,
  ...recordingRoutes,
  ...eventRoutes,
];
