/** What an API token may be good for. `X:write` covers `X:read`, `all` everything. */
export const scopeWords = [
  'all',
  'account:read',
  'account:write',
  'users:read',
  'users:write',
  'user-groups:read',
  'user-groups:write',
  'domains:read',
  'domains:write',
  'device-groups:read',
  'device-groups:write',
  'devices:read',
  'devices:write',
  'grants:read',
  'grants:write',
  'shares:read',
  'shares:write',
  'tunnels:write',
  'sessions:read',
  'sessions:write',
  'recordings:read',
  'recordings:write',
  'events:read',
] as const;

export type Scope = (typeof scopeWords)[number];

/** True where the scopes let their holder do what `needed` stands for. */
export function covers(scopes: readonly string[], needed: string): boolean {
  if (scopes.includes('all') || scopes.includes(needed)) return true;
  return needed.endsWith(':read') && scopes.includes(needed.replace(/:read$/, ':write'));
}
